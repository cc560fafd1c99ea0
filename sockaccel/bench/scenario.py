"""Scenarios: benchmarks/scenarios/*.toml, pure data, read and checked.

benchmarks/README.md has the keys.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from sockaccel.bench import files
from sockaccel.bench.arms import Arm
from sockaccel.bench.lab import MAX_PORT_NAME
from sockaccel.bench.workloads import CLIENTS, SERVERS
from sockaccel.bench.workloads.base import cost_metrics
from sockaccel.errors import HostError, InputError, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sockaccel.bench.result import Metric
    from sockaccel.bench.workloads.base import Client, Server, Tool

T = TypeVar("T")
TOPOLOGIES = ("netns", "docker")
CPUS = ("all", "one", "split")
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}
# What numbers may be: enough for every measurement, and too little to take a machine's memory
# or its whole day. Names as in the classes of programs.
LIMITS = {
    "message_bytes": (1, 16 << 20),
    "connections": (1, 1000),
    "clients": (1, 1000),
    "threads": (1, 64),
    "pipeline": (1, 1000),
    "rate": (0, 1_000_000),
    "reader_pause_us": (0, 1_000_000),
    "scale": (1, 20),
    "web_workers": (1, 64),
    "balancer_workers": (1, 64),
}
# What multiplies to the bytes that are under way at once.
UNDER_WAY = ("message_bytes", "connections", "clients", "pipeline")
MOST_UNDER_WAY = 1 << 29


@dataclass(frozen=True)
class Conditions:
    """Parameters that are not a program's.

    cpus: "all" leaves the scheduler its choice, "one" keeps every program on the same core,
    "split" the client on one and the servers on another. least_redirected: the share of
    the bytes that an accelerated run must have redirected to count; 0 where the datapath
    leaves much to TCP on purpose, and any is enough.
    """

    cpus: str = "all"
    least_redirected: float = 0.9

    def __post_init__(self) -> None:
        if self.cpus not in CPUS:
            raise ValueError(f"cpus is not {' or '.join(CPUS)} but '{self.cpus}'")
        if not 0 <= self.least_redirected <= 1:
            raise ValueError(f"least_redirected is not from 0 to 1 but {self.least_redirected}")


@dataclass(frozen=True)
class ServerAt:
    """A server of a scenario."""

    node: str
    program: str
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClientAt:
    """The load generator of a scenario."""

    node: str
    program: str
    server: str


@dataclass(frozen=True)
class Case:
    """One combination of a scenario's parameters."""

    name: str
    parameters: dict[str, Any]
    quick: bool

    def conditions(self) -> Conditions:
        """Return what holds for all programs."""
        return _make(Conditions, self.parameters)

    def server(self, at: ServerAt) -> Server:
        """Return a server, to be started."""
        return _make(SERVERS[at.program], self.parameters)

    def client(self, at: ClientAt) -> Client:
        """Return the load generator."""
        return _make(CLIENTS[at.program], self.parameters)


@dataclass(frozen=True)
class Scenario:
    """What is measured, and all its cases."""

    name: str
    title: str
    topologies: tuple[str, ...]
    nodes: tuple[str, ...]
    arms: tuple[Arm, ...]
    seconds: float
    warm_up_s: float
    about: str | None  # the metric that its cases are about; None: the client's first
    servers: tuple[ServerAt, ...]
    client: ClientAt
    cases: tuple[Case, ...] = field(repr=False)

    @cached_property
    def hops(self) -> int:
        """Connections that a request crosses, one after the other."""
        behind = {server.node: server.behind for server in self.servers}
        hops, node = 1, self.client.server
        while behind[node]:
            hops, node = hops + 1, behind[node][0]
        return hops

    def metrics(self, case: Case) -> list[Metric]:
        """Return what is measured: what the client finds, then what it costs."""
        client = case.client(self.client)
        metrics = [*client.metrics, *cost_metrics(streams=client.streams)]
        if self.about is None:
            return metrics
        # The rest keeps its order.
        return sorted(metrics, key=lambda metric: metric.name != self.about)

    @property
    def unknown_programs(self) -> tuple[str, ...]:
        """Programs that sockaccel's policy does not know and has to be told of."""
        return CLIENTS[self.client.program].unknown

    @property
    def drops_root(self) -> bool:
        """Whether a server of it is not root, and has files to reach."""
        return any(SERVERS[at.program].drops_root for at in self.servers)

    @property
    def tools(self) -> list[Tool]:
        """What has to be installed."""
        return [tool for program in _programs(self) for tool in program.tools]


def load_all(directory: Path | None = None) -> dict[str, Scenario]:
    """Return every scenario that there is, by name; by default those that are shipped.

    Raises:
        HostError: the directory is not there.
        InputError: a file cannot be used.

    """
    directory = directory or files.directory() / "scenarios"
    paths = sorted(directory.glob("*.toml"))
    if not paths:
        raise HostError(
            f"cannot load scenarios from '{directory}': there are none", "install sockaccel again"
        )
    return {path.stem: load(path) for path in paths}


def load(path: Path) -> Scenario:
    """Return the scenario in a file.

    Raises:
        InputError: it cannot be read, or what it says cannot be used.

    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read scenario '{path}': {reason(error)}") from error
    except ValueError as error:
        raise InputError(f"cannot read scenario '{path}': no TOML: {error}") from error
    try:
        return parse(path.stem, data)
    except _UnknownNameError as error:
        hint = f"'{error.nearest}' may be meant" if error.nearest else None
        raise InputError(f"cannot use scenario '{path}': {error}", hint) from error
    except ValueError as error:
        raise InputError(f"cannot use scenario '{path}': {error}") from error


def overruled(scenario: Scenario, parameters: Mapping[str, Any]) -> Scenario:
    """Return a scenario with other values for parameters that are the same in all its cases.

    Raises:
        InputError: it has no such parameter, that is in its cases' names, or the value is
            not of its kind.

    """
    try:
        for name in parameters:
            if len({str(case.parameters.get(name)) for case in scenario.cases}) > 1:
                raise ValueError(f"{name} is what its cases differ in")
        changed = replace(
            scenario,
            cases=tuple(
                replace(case, parameters={**case.parameters, **parameters})
                for case in scenario.cases
            ),
        )
        _check(changed)
    except ValueError as error:
        near = error.nearest if isinstance(error, _UnknownNameError) else None
        hint = f"'{near}' may be meant" if near else f"sockaccel bench list {scenario.name}"
        raise InputError(f"cannot set a parameter of '{scenario.name}': {error}", hint) from error
    return changed


class _UnknownNameError(ValueError):
    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"there is no {what} '{name}'")
        self.nearest = nearest(name, known)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like one, if any is like it."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def parse(name: str, data: Mapping[str, Any]) -> Scenario:
    """Return the scenario that a TOML document describes.

    Raises:
        ValueError: it describes none; says what is wrong.

    """
    table = _Table("", data)
    servers = tuple(_server(each) for each in table.tables("servers"))
    client_table = table.table("client")
    client = ClientAt(
        client_table.take("node", str),
        client_table.take("program", str),
        client_table.take("server", str),
    )
    client_table.end()
    constants = table.table("parameters", required=False).rest()
    matrix = table.table("cases", required=False).rest()
    quick = table.table("quick", required=False).rest() if "quick" in data else None
    scenario = Scenario(
        name=name,
        title=table.take("title", str),
        topologies=tuple(table.names("topologies", TOPOLOGIES)),
        nodes=tuple(table.take("nodes", list)),
        arms=tuple(Arm(each) for each in table.names("arms", list(Arm))),
        seconds=table.take("seconds", float),
        warm_up_s=table.take("warm_up_s", float),
        about=table.take("about", str, "") or None,
        servers=servers,
        client=client,
        cases=_cases(constants, matrix, quick),
    )
    table.end()
    _check(scenario)
    return scenario


def _server(table: _Table) -> ServerAt:
    server = ServerAt(
        table.take("node", str),
        table.take("program", str),
        tuple(table.take("behind", list, [])),
    )
    table.end()
    return server


class _Table:
    """A table of TOML whose keys are taken one by one; what is left at the end is unknown."""

    def __init__(self, name: str, data: Mapping[str, Any]) -> None:
        self._name = name
        self._data = dict(data)
        self._taken: list[str] = []

    def take(self, key: str, kind: type[T], default: object = MISSING) -> T:
        self._taken.append(key)
        value = self._data.pop(key, default)
        if value is MISSING:
            raise ValueError(f"{self._path(key)} is missing")
        return _of_kind(self._path(key), kind, value)

    def names(self, key: str, known: Sequence[str]) -> list[str]:
        """Take a list of known names, without repetition and not empty."""
        found = self.take(key, list)
        if not found or len(set(found)) != len(found):
            raise ValueError(f"{self._path(key)} is empty or names something twice")
        for each in found:
            if each not in known:
                raise _UnknownNameError(f"name for {self._path(key)},", str(each), known)
        return found

    def table(self, key: str, *, required: bool = True) -> _Table:
        return _Table(self._path(key), self.take(key, dict, MISSING if required else {}))

    def tables(self, key: str) -> list[_Table]:
        return [
            _Table(name := f"{self._path(key)}[{index}]", _of_kind(name, dict, each))
            for index, each in enumerate(self.take(key, list))
        ]

    def rest(self) -> dict[str, Any]:
        """Take everything."""
        found, self._data = self._data, {}
        return found

    def end(self) -> None:
        for key in self._data:
            raise _UnknownNameError("key", self._path(key), map(self._path, self._taken))

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


def _of_kind(what: str, kind: type[T], value: object) -> T:
    if kind is float and type(value) is int:
        try:
            return cast("T", float(value))
        except OverflowError:
            raise ValueError(f"{what} is too large") from None
    # By type(), for True is an int to isinstance().
    if type(value) is not kind:
        raise ValueError(f"{what} is not {_KINDS[kind]} but {value!r:.60}")
    return value


def _cases(
    constants: dict[str, Any], matrix: dict[str, Any], quick: dict[str, Any] | None
) -> tuple[Case, ...]:
    for key, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"cases.{key} is not a list of values but {values!r}")
        if key in constants:
            raise ValueError(f"parameters.{key} is in [cases], too")
    for key, values in (quick or {}).items():
        if key not in matrix:
            raise _UnknownNameError("key", f"quick.{key}", (f"quick.{each}" for each in matrix))
        if not isinstance(values, list) or any(each not in matrix[key] for each in values):
            raise ValueError(f"quick.{key} is not a list of values of cases.{key} but {values!r}")
    varied = [key for key, values in matrix.items() if len(values) > 1]
    cases = []
    for combination in product(*matrix.values()):
        chosen = dict(zip(matrix, combination, strict=True))
        in_quick = quick is not None and all(chosen[key] in quick[key] for key in quick)
        name = "-".join(_case_word(key, chosen[key]) for key in varied) or "only"
        cases.append(Case(name, {**constants, **chosen}, in_quick))
    return tuple(cases)


def _case_word(key: str, value: object) -> str:
    """Return a value as a part of a case's name: short, and without '.' and '/'."""
    if isinstance(value, bool):
        text = f"{key}-{'on' if value else 'off'}"
    elif isinstance(value, str):
        text = value
    elif key == "message_bytes":
        text = str(value)
    else:
        text = f"{key}-{value}"
    return text.replace("_", "-").replace(".", "-").replace("/", "-")


def _check(scenario: Scenario) -> None:
    """Refuse what fits together nowhere."""
    if scenario.seconds <= 0 or scenario.warm_up_s <= 0:
        raise ValueError("seconds and warm_up_s are not above 0")
    if Arm.BASELINE not in scenario.arms or len(scenario.arms) < 2:
        raise ValueError("arms has to have 'baseline' and another one")
    _check_nodes(scenario)
    programs = _programs(scenario)
    if Arm.UNIX in scenario.arms and not all(program.unix for program in programs):
        raise ValueError("arms has 'unix', but not all programs can do that")
    takers: list[Any] = [*programs, Conditions]
    known = {each.name for kind in takers for each in fields(kind)}
    for case in scenario.cases:
        for key in case.parameters:
            _known("parameter", key, known)
        for kind in takers:
            _make(kind, case.parameters)
        _check_under_way(case.parameters)
        if scenario.about:
            _known("metric", scenario.about, [each.name for each in scenario.metrics(case)])


def _check_nodes(scenario: Scenario) -> None:
    for node in scenario.nodes:
        _of_kind("a node", str, node)
        if not 0 < len(node) <= MAX_PORT_NAME or node == "bridge":
            raise ValueError(f"nodes has '{node}', which cannot be the name of a bridge port")
    started: list[str] = []
    for server in scenario.servers:
        _known("node", server.node, scenario.nodes)
        _known("server", server.program, SERVERS)
        for behind in server.behind:
            _known("server before it on node", behind, started)
        started.append(server.node)
    _known("node", scenario.client.node, scenario.nodes)
    _known("client", scenario.client.program, CLIENTS)
    _known("server on node", scenario.client.server, started)
    for names in (list(scenario.nodes), [*started, scenario.client.node]):
        if len(set(names)) != len(names):
            raise ValueError("a node is named twice, or runs two programs")


def _programs(scenario: Scenario) -> list[type[Server] | type[Client]]:
    servers: list[type[Server] | type[Client]] = [SERVERS[at.program] for at in scenario.servers]
    return [*servers, CLIENTS[scenario.client.program]]


def _known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := list(known)):
        raise _UnknownNameError(what, name, names)


def _check_under_way(parameters: Mapping[str, Any]) -> None:
    """Refuse what both ends would need too much memory for."""
    factors = [name for name in UNDER_WAY if name in parameters]
    if prod(parameters[name] for name in factors) > MOST_UNDER_WAY:
        raise ValueError(f"{' x '.join(factors)} is more than {MOST_UNDER_WAY >> 20} MiB")


def _within(name: str, value: int) -> None:
    least, most = LIMITS[name]
    if not least <= value <= most:
        # In hexadecimal, Python reads numbers that it does not write as decimal ones.
        shown = f"{value:,}" if abs(value) < 1 << 64 else "a number of more than 64 bits"
        raise ValueError(f"parameter {name} is not from {least:,} to {most:,} but {shown}")


def _make(kind: type[T], parameters: Mapping[str, Any]) -> T:
    """Return a dataclass made of those parameters that it has."""
    hints = get_type_hints(kind)
    chosen = {}
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name in parameters:
            value = _of_kind(f"parameter {each.name}", hints[each.name], parameters[each.name])
            if each.name in LIMITS:
                _within(each.name, value)
            chosen[each.name] = value
        elif each.default is MISSING:
            raise ValueError(f"parameter {each.name} of {kind.__name__} is missing")
    return kind(**chosen)
