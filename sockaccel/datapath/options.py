"""What `enable` was asked for. Stored beside the maps, so that a second one can compare."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from sockaccel.datapath.layout import OPTIONS_SIZE
from sockaccel.errors import InputError
from sockaccel.scope.ports import PortSet, parse_ports
from sockaccel.scope.selection import Policy

DEFAULT_MAX_CONNECTIONS = 65_536
MAX_CONNECTIONS_LIMIT = 1_000_000

_ADJUSTABLE = (
    "policy",
    "netns",
    "ports",
    "docker_host",
    "accelerate",
    "keep_on_tcp",
    "opt_in",
    "network",
    "project",
)
"""What does not change how the programs are loaded, or where they are attached."""


@dataclass(frozen=True)
class Options:
    """The options of `enable`, resolved: paths are absolute, ports are normalised."""

    cgroup: str
    scope: str = "docker"
    policy: str = "safe"
    netns: tuple[str, ...] = ()
    ports: str | None = None
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    docker_host: str | None = None
    accelerate: tuple[str, ...] = ()
    keep_on_tcp: tuple[str, ...] = ()
    opt_in: bool = False
    network: tuple[str, ...] = ()
    project: tuple[str, ...] = ()

    def fixed_differences(self, other: Options) -> list[str]:
        """Return those of the differences that cannot be adjusted while it is enabled."""
        adjusted = {name: getattr(other, name) for name in _ADJUSTABLE}
        return replace(self, **adjusted).differences(other)

    @property
    def port_set(self) -> PortSet | None:
        """The listeners' ports, None for all."""
        return parse_ports(self.ports) if self.ports is not None else None

    @property
    def selection(self) -> Policy:
        """Which containers these options put in scope."""
        return Policy(self.opt_in, self.network, self.project)

    def differences(self, other: Options) -> list[str]:
        """Return one ``--option is <self's>, not <other's>`` for each that differs."""
        return [
            f"--{field.name.replace('_', '-')} is {_shown(mine)}, not {_shown(theirs)}"
            for field in fields(self)
            if (mine := getattr(self, field.name)) != (theirs := getattr(other, field.name))
        ]

    def to_bytes(self) -> bytes:
        """Return the stored form.

        Raises:
            InputError: there are too many or too long values to store.

        """
        text = json.dumps(asdict(self)).encode()
        if len(text) >= OPTIONS_SIZE:
            raise InputError(
                f"cannot store the options: {len(text)} bytes, at most {OPTIONS_SIZE - 1}",
                "name fewer namespaces with --netns, or use --scope all",
            )
        return text.ljust(OPTIONS_SIZE, b"\0")

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Return the options that `to_bytes` stored.

        Raises:
            ValueError: these bytes are not that.

        """
        values: dict[str, Any] = json.loads(stored.rstrip(b"\0"))
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        for name in ("netns", "accelerate", "keep_on_tcp", "network", "project"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def _shown(value: object) -> str:
    if value is None or value is False or value == ():
        return "unset"
    if value is True:
        return "set"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
