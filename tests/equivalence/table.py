"""The table: what a scenario is, and what is expected of it under each policy."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .stage import Stage

BLOCKING, NON_BLOCKING = "blocking", "non-blocking"
MODES = (BLOCKING, NON_BLOCKING)
FAMILIES = ("IPv4", "IPv6", "v4-mapped")
EVERY_FAMILY = (*FAMILIES, "dual-stack", "loopback IPv4", "loopback IPv6")
IPV4 = ("IPv4",)

SAME, DIFFERS, STAYS = "same", "differs", "stays on TCP"


@dataclass(frozen=True)
class Policy:
    """One accelerated column."""

    name: str
    options: tuple[str, ...]
    """Of `sockaccel enable`."""
    protects: bool
    """Leaves on TCP whom redirection would change: a known difference is then none."""


POLICIES = {
    "all": Policy("all", ("--policy=all",), protects=False),
    # Default options, so that the column shows what a user gets.
    "safe": Policy("safe", (), protects=True),
}


@dataclass(frozen=True)
class Known:
    """A difference that redirection makes on the kernels of today."""

    row: str
    """Of the hazards that docs/semantics.md lists."""
    cause: str
    seen: Mapping[str, Any]
    """What the accelerated run observes in place of what plain TCP does; nothing else differs."""


@dataclass(frozen=True)
class Variant:
    """With which sockets a scenario runs."""

    family: str
    mode: str

    def __str__(self) -> str:
        return f"{self.family}, {self.mode}"


@dataclass(frozen=True)
class Scenario:
    """One behaviour of sockets."""

    name: str
    title: str
    topic: str
    rows: tuple[str, ...]
    run: Callable[[Stage], None]
    modes: tuple[str, ...]
    families: tuple[str, ...]
    known: Known | None
    stays: str | None
    """The reason for which this connection is left on TCP under every policy."""
    fresh: bool
    """Switches acceleration itself, so it needs a laboratory of its own."""

    def variants(self) -> Iterator[Variant]:
        for family in self.families:
            for mode in self.modes:
                yield Variant(family, mode)

    def verdicts(self, policy: Policy) -> set[str]:
        """Return the verdicts that are right."""
        if self.stays:
            return {STAYS}
        if policy.name == "all":
            return {DIFFERS if self.known else SAME}
        return {STAYS} if self.known else {STAYS, SAME}


@dataclass
class Table:
    """All scenarios, in the order in which they are defined."""

    scenarios: dict[str, Scenario] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self.scenarios.values())

    def add(self, scenario: Scenario) -> None:
        assert scenario.name not in self.scenarios, f"{scenario.name} exists"
        assert scenario.title not in {other.title for other in self}, f"{scenario.title!r} exists"
        self.scenarios[scenario.name] = scenario


TABLE = Table()


def scenario(
    title: str,
    *,
    rows: str = "",
    modes: tuple[str, ...] = MODES,
    families: tuple[str, ...] = FAMILIES,
    known: Known | None = None,
    stays: str | None = None,
    fresh: bool = False,
    name: str = "",
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Put a function into the table; its module's docstring is the topic."""

    def register(function: Callable[[Stage], None]) -> Callable[[Stage], None]:
        module = inspect.getmodule(function)
        assert module
        assert module.__doc__
        topic = module.__doc__.splitlines()[0].rstrip(".")
        TABLE.add(
            Scenario(
                name=name or function.__name__,
                title=title,
                topic=topic,
                rows=tuple(rows.split()),
                run=function,
                modes=modes,
                families=families,
                known=known,
                stays=stays,
                fresh=fresh,
            )
        )
        return function

    return register
