from __future__ import annotations

import pytest

from sockaccel.agent.presence import Skipped
from sockaccel.agent.report import containers_text, counts, news, skipped
from sockaccel.scope.docker import Container
from sockaccel.scope.selection import Decision, Why


def decision(name: str, why: Why = Why.IN_SCOPE, *, cookie: int = 5, number: int = 1) -> Decision:
    container = Container(f"{number:064x}", name, 7, "bridge")
    return Decision(container, cookie, why in (Why.IN_SCOPE, Why.INCLUDED), why)


def said(before: list[Decision] | None, after: list[Decision]) -> list[str]:
    def by_id(decisions: list[Decision]) -> dict[str, Decision]:
        return {each.container.id: each for each in decisions}

    return list(news(None if before is None else by_id(before), by_id(after)))


def test_at_first_only_who_is_left_out_is_news() -> None:
    everyone = [decision("a", number=1), decision("b", Why.LABEL, number=2)]
    assert said(None, everyone) == ["container 'b' (000000000000) is left on TCP: label"]


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ([], [decision("a")], ["container 'a' (000000000000) is in scope"]),
        ([], [decision("a", Why.INCLUDED)], ["container 'a' (000000000000) is in scope: included"]),
        ([], [decision("a", Why.GONE)], []),
        ([decision("a")], [decision("a")], []),
        ([decision("a", Why.LABEL)], [decision("a", Why.LABEL)], []),
        (
            [decision("a")],
            [decision("a", Why.EXCLUDED)],
            ["container 'a' (000000000000) is left on TCP: excluded"],
        ),
        # Restarted: another namespace.
        (
            [decision("a", cookie=5)],
            [decision("a", cookie=6)],
            ["container 'a' (000000000000) is in scope"],
        ),
        ([decision("a")], [decision("b")], ["container 'a' (000000000000) is called 'b' now"]),
        (
            [decision("a")],
            [decision("b", Why.LABEL)],
            [
                "container 'a' (000000000000) is called 'b' now",
                "container 'b' (000000000000) is left on TCP: label",
            ],
        ),
        ([decision("a")], [], ["container 'a' (000000000000) has ended"]),
    ],
)
def test_each_change_of_fate_is_one_line(
    before: list[Decision], after: list[Decision], lines: list[str]
) -> None:
    assert said(before, after) == lines


def test_decisions_are_counted_by_reason() -> None:
    everyone = [decision("a"), decision("b"), decision("c", Why.BAD_LABEL)]
    assert counts(everyone) == {"bad-label": 1, "in-scope": 2}
    assert containers_text(everyone) == "2 of 3 containers in scope"
    assert containers_text(everyone[:1]) == "1 of 1 container in scope"
    assert containers_text([]) == "0 of 0 containers in scope"


def test_who_is_skipped_is_listed_by_name_but_not_who_has_gone() -> None:
    everyone = [
        decision("z", Why.LABEL, number=1),
        decision("y"),
        decision("b", Why.SHARED, number=2),
        decision("a", Why.GONE),
    ]
    assert skipped(everyone) == (
        Skipped("b", f"{2:064x}", "shared"),
        Skipped("z", f"{1:064x}", "label"),
    )
