from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.datapath.layout import COUNTER_SLOTS, Conn, ConnRecord, Counter, Reason
from sockaccel.errors import StateError
from sockaccel.inspect import status
from sockaccel.inspect.status import Counters, Status, total

if TYPE_CHECKING:
    from pathlib import Path

PER_CONNECTION = [
    Reason.OUT_OF_SCOPE,
    Reason.REMOTE,
    Reason.NO_PEER,
    Reason.PEER_OUT_OF_SCOPE,
    Reason.MPTCP,
    Reason.MAP_FULL,
    Reason.FOREIGN_OWNER,
    Reason.KERNEL,
]
PER_MESSAGE = [reason for reason in Reason if reason >= Reason.BACK_PRESSURE]


def closed(**values: int) -> list[int]:
    sums = [0] * COUNTER_SLOTS
    for name, value in values.items():
        index = Counter[name] if name in Counter.__members__ else Counter.REASON + Reason[name]
        sums[index] = value
    return sums


def live(reasons: dict[Reason, int] | None = None, state: int = 1, **values: Any) -> ConnRecord:
    made = ConnRecord(conn=Conn(**values), state=state)
    made.write_seq = made.conn.tcp_seq
    for reason, count in (reasons or {}).items():
        made.conn.reasons[reason] = count
    return made


def test_every_reason_is_counted_in_one_way() -> None:
    assert [Reason.NONE, *PER_CONNECTION, *PER_MESSAGE] == list(Reason)


def test_nothing_is_nothing() -> None:
    assert total(closed(), []) == Counters()


def test_every_sum_is_found_under_its_name() -> None:
    assert total(
        closed(
            PAIRED=1,
            UNPAIRED=2,
            REDIRECTED_BYTES=3,
            REDIRECTED_MESSAGES=4,
            TCP_BYTES=5,
            TCP_MESSAGES=6,
        ),
        [],
    ) == Counters(1, 2, 3, 4, 5, 6, {})


def test_what_live_connections_moved_is_added() -> None:
    sums = closed(
        PAIRED=9, REDIRECTED_BYTES=1000, REDIRECTED_MESSAGES=100, TCP_BYTES=50, TCP_MESSAGES=5
    )
    first = live(redirected_bytes=1 << 40, redirected_messages=1, tcp_bytes=7, tcp_messages=3)
    second = live(redirected_bytes=2, redirected_messages=2, tcp_bytes=11, tcp_messages=1)
    second.write_seq += 4  # written since its last message was looked at
    third = live(tcp_bytes=1, state=4)  # only a FIN
    assert total(sums, iter([first, second, third])) == Counters(
        connections_paired=9,
        redirected_bytes=1000 + (1 << 40) + 2,
        redirected_messages=103,
        tcp_bytes=50 + 7 + 15,
        tcp_messages=9,
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_a_reason_has_its_label_and_its_count(reason: Reason) -> None:
    assert total(closed(**{reason.name: 3}), []).fallbacks == {reason.label: 3}


@pytest.mark.parametrize("reason", PER_MESSAGE)
def test_messages_of_live_connections_are_added_to_their_reason(reason: Reason) -> None:
    sums = closed(**{reason.name: 3})
    assert total(sums, [live({reason: 4}), live({reason: 5})]).fallbacks == {reason.label: 12}


@pytest.mark.parametrize("reason", PER_CONNECTION)
def test_messages_are_not_added_to_a_count_of_connections(reason: Reason) -> None:
    assert total(closed(**{reason.name: 3}), [live({reason: 4})]).fallbacks == {reason.label: 3}


def test_messages_that_were_redirected_are_no_fallback() -> None:
    assert total(closed(), [live({Reason.NONE: 5})]).fallbacks == {}


def test_nothing_pinned_is_inactive_and_says_what_drains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = status.Loaded(7, 6, 2, redirecting=True)
    monkeypatch.setattr(status.state, "draining", lambda _: [left])
    assert status.read(tmp_path / "none") == Status(active=False, draining=(left,))
    assert status.read(tmp_path) == Status(active=False, draining=(left,))


def test_who_may_not_ask_what_drains_is_told_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(status.state, "draining", refuse)
    assert status.read(tmp_path / "none") == Status(active=False)


def test_a_directory_of_somebody_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with pytest.raises(StateError, match="'theirs'"):
        status.read(tmp_path)
