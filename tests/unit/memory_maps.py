"""Maps in memory in place of the kernel's, for tests of what is written to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sockaccel.datapath import libbpf
from sockaccel.datapath.layout import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Maps:
    """The pinned maps of a Datapath, and the order of what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {}
        self.config = Config()
        self.done: list[tuple[str, str]] = []
        self.room = 1 << 16
        monkeypatch.setattr(libbpf, "attach", lambda *_: None)
        monkeypatch.setattr(libbpf, "update", self.update)
        monkeypatch.setattr(libbpf, "delete", self.delete)
        monkeypatch.setattr(libbpf, "keys", self.keys)
        monkeypatch.setattr(libbpf, "lookup", lambda name, key, _: self.of(name).get(key))

    def of(self, name: str) -> dict[bytes, bytes]:
        return self.maps.setdefault(name, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fd(self, name: str) -> str:
        return name

    def update(self, name: str, key: bytes, value: bytes) -> None:
        if key not in self.of(name) and len(self.of(name)) >= self.room:
            raise OSError(7, "")
        self.of(name)[key] = value
        self.done.append(("put", name))

    def delete(self, name: str, key: bytes) -> None:
        if self.of(name).pop(key, None) is not None:
            self.done.append(("remove", name))

    def keys(self, name: str, size: int) -> Iterator[bytes]:
        for key in list(self.of(name)):
            assert len(key) == size
            yield key
