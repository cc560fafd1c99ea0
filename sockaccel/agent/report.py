"""What the agent says of what it knows: log lines, the status line. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sockaccel.agent.presence import Skipped
from sockaccel.render.units import SHORT_ID
from sockaccel.scope.selection import Why

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sockaccel.scope.selection import Decision


def news(before: Mapping[str, Decision] | None, after: Mapping[str, Decision]) -> Iterator[str]:
    """Yield a line for each container whose fate has changed; both by container id.

    Where nothing was known before, only those that are left out are news.
    """
    for container_id, decision in after.items():
        earlier = (before or {}).get(container_id)
        if earlier and earlier.container.name != decision.container.name:
            yield f"{_name(earlier)} is called '{decision.container.name}' now"
        if earlier and _fate(earlier) == _fate(decision):
            continue
        if decision.why is Why.GONE:  # its end is to follow
            continue
        if decision.in_scope:
            if before is not None:
                yield f"{_name(decision)} is in scope{_because(decision)}"
        else:
            yield f"{_name(decision)} is left on TCP: {decision.why}"
    for container_id, earlier in (before or {}).items():
        if container_id not in after:
            yield f"{_name(earlier)} has ended"


def counts(decisions: Iterable[Decision]) -> dict[str, int]:
    """Return how many containers there are for each reason."""
    return dict(sorted(Counter(str(each.why) for each in decisions).items()))


def skipped(decisions: Iterable[Decision]) -> tuple[Skipped, ...]:
    """Return the containers that are not in scope, by name."""
    return tuple(
        Skipped(each.container.name, each.container.id, str(each.why))
        for each in sorted(decisions, key=lambda each: each.container.name)
        if not each.in_scope and each.why is not Why.GONE
    )


def containers_text(decisions: Iterable[Decision]) -> str:
    """Return how many containers there are and how many are in scope."""
    everyone = list(decisions)
    chosen = sum(each.in_scope for each in everyone)
    return f"{chosen} of {len(everyone)} container{'s' * (len(everyone) != 1)} in scope"


def _fate(decision: Decision) -> tuple[bool, Why, int | None]:
    return decision.in_scope, decision.why, decision.cookie


def _name(decision: Decision) -> str:
    return f"container '{decision.container.name}' ({decision.container.id[:SHORT_ID]})"


def _because(decision: Decision) -> str:
    return "" if decision.why is Why.IN_SCOPE else f": {decision.why}"
