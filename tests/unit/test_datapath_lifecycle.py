"""What of switching on and off needs no kernel."""

from __future__ import annotations

import sys
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest
from memory_maps import Maps

from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.layout import (
    MAX_KNOWN_PROGRAMS,
    OPTIONS_SIZE,
    ConfigFlags,
    ProgramKey,
    Side,
    Trait,
)
from sockaccel.datapath.lifecycle import Scope
from sockaccel.datapath.options import Options
from sockaccel.datapath.programs import SHIPPED
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.datapath.state import Datapath
from sockaccel.errors import DatapathError, InputError, NotPermittedError, StateError
from sockaccel.scope.plan import Entry, plan

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = Options("/a")
NETWORK = ip_network("10.0.0.0/24")


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Maps:
    made = Maps(monkeypatch)
    monkeypatch.setattr(lifecycle, "Datapath", lambda _: made)
    return made


def words(written: dict[bytes, bytes]) -> dict[bytes, int]:
    assert {len(value) for value in written.values()} <= {4}
    return {key: int.from_bytes(value, sys.byteorder) for key, value in written.items()}


def test_the_maps_are_told_who_is_in_scope_and_which_programs_are_known(maps: Maps) -> None:
    wanted = {5: Entry(False, None, by_docker=True), 6: Entry(False, None, False, by_netns=True)}
    options = Options("/a", accelerate=("a" * 20, "haproxy"), keep_on_tcp=("nginx",), ports="65")
    scope = Scope(lambda actual, overrides: {**actual, **overrides, **wanted}, {NETWORK})
    assert lifecycle._fill(Path("/p"), options, scope, 9) == 2
    assert ScopeMap(maps).entries() == wanted
    assert ScopeMap(maps).networks() == {NETWORK: True}
    known = words(maps.of("known_programs"))
    assert known[b"a" * 15 + b"\0"] == known[b"haproxy".ljust(16, b"\0")] == Trait.FORCED
    assert known[b"nginx".ljust(16, b"\0")] == Trait.REFUSED
    assert known[b"curl".ljust(16, b"\0")] == Trait.RECV
    assert Options.from_bytes(maps.of("options")[bytes(4)]) == options
    assert maps.of("ports")[bytes([1, 0, 0, 0])] == bytes([2, 0, 0, 0, 0, 0, 0, 0])
    assert maps.config.flags == ConfigFlags.ENABLED | ConfigFlags.PORTS
    assert maps.config.instance == 9


def test_other_options_take_the_place_of_those_before(maps: Maps) -> None:
    lifecycle._set_options(maps, Options("/a", accelerate=("x",), ports="1-65535"))
    maps.config.flags |= ConfigFlags.ONE_QUEUE | ConfigFlags.FIONREAD
    options = Options("/a", keep_on_tcp=("y",), policy="all")
    lifecycle._set_options(maps, options)
    known = words(maps.of("known_programs"))
    assert b"x".ljust(16, b"\0") not in known
    assert known[b"y".ljust(16, b"\0")] == Trait.REFUSED
    assert maps.config.flags == (
        ConfigFlags.ENABLED | ConfigFlags.POLICY_ALL | ConfigFlags.ONE_QUEUE | ConfigFlags.FIONREAD
    )
    assert Options.from_bytes(maps.of("options")[bytes(4)]) == options


def test_addresses_that_find_no_room_keep_nobody_in_scope(maps: Maps) -> None:
    web = {5: Entry(False, None, by_docker=True)}
    ScopeMap(maps).apply(plan(web, {}))
    maps.room = 0
    with pytest.raises(DatapathError, match="cannot note the networks"):
        lifecycle._update_scope(maps, Scope(lambda *_: {}, {NETWORK}))
    assert ScopeMap(maps).entries() == {}


def test_options_that_find_no_room_are_refused_before_anything_is_written() -> None:
    names = tuple(f"p{number}" for number in range(MAX_KNOWN_PROGRAMS))
    with pytest.raises(InputError, match=f"at most {MAX_KNOWN_PROGRAMS}"):
        lifecycle._check_room(Options("/a", accelerate=names))
    with pytest.raises(InputError, match="cannot store the options"):
        lifecycle._check_room(Options("/a", netns=("/" * OPTIONS_SIZE,)))
    lifecycle._check_room(Options("/a", accelerate=names[len(SHIPPED) :]))


def test_other_programs_find_room_where_those_before_took_all_of_it(maps: Maps) -> None:
    maps.room = 1024
    ones, others = ([f"{first}{number}" for number in range(900)] for first in "ab")
    lifecycle._set_options(maps, Options("/a", accelerate=tuple(ones)))
    lifecycle._set_options(maps, Options("/a", accelerate=tuple(others)))
    assert len(maps.of("known_programs")) == 900 + len(SHIPPED)


def test_the_policy_hears_of_listeners_that_were_there_before(maps: Maps) -> None:
    key = ProgramKey(b"nginx", 1, 2, 3, Side.SERVER)
    lifecycle._introduce(Path("/p"), lambda: {7: key})
    assert maps.maps == {"listeners": {(7).to_bytes(8, sys.byteorder): bytes(key)}}


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    def check(mask: int) -> None:
        text = f"CapPrm:\tffffffffffffffff\nCapEff:\t{mask:016x}\nCapBnd:\tffffffffffffffff\n"
        (tmp_path / "status").write_text(text)
        monkeypatch.setattr(lifecycle, "Path", lambda name: tmp_path / Path(name).name)
        lifecycle.check_capabilities()

    return check


def test_what_the_kernel_accepts_is_enough(capabilities: Callable[[int], None]) -> None:
    capabilities((1 << 41) - 1)
    capabilities(1 << 12 | 1 << 21)  # CAP_SYS_ADMIN implies CAP_BPF (39) and CAP_PERFMON (38)


@pytest.mark.parametrize(("bit", "name"), [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")])
def test_a_capability_that_is_missing_is_named(
    capabilities: Callable[[int], None], bit: int, name: str
) -> None:
    with pytest.raises(NotPermittedError) as caught:
        capabilities(((1 << 41) - 1) & ~(1 << bit))
    assert str(caught.value) == f"cannot change the datapath: missing {name} (EPERM)"
    assert (caught.value.exit_code, caught.value.hint) == (77, "run as root")


def test_without_any_all_are_named(capabilities: Callable[[int], None]) -> None:
    with pytest.raises(NotPermittedError, match=r"missing CAP_NET_ADMIN, CAP_SYS_ADMIN \(EPERM"):
        capabilities(0)


class Pinned(SimpleNamespace):
    """As much of a Datapath as comparing takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def pinned(monkeypatch: pytest.MonkeyPatch, *, attached: bool) -> Pinned:
    made = Pinned(active=attached, complete=True, options=OURS, closed=False)
    monkeypatch.setattr(Datapath, "open", lambda _: made)
    return made


def test_the_same_options_again_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = pinned(monkeypatch, attached=True)
    assert lifecycle.is_enabled(Path("/p"), Options("/a"))
    assert datapath.closed


def test_other_options_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = pinned(monkeypatch, attached=True)
    with pytest.raises(StateError) as caught:
        lifecycle.is_enabled(Path("/p"), Options("/b", scope="all"))
    assert str(caught.value) == (
        "cannot enable: already enabled with other options: "
        "--cgroup is /a, not /b; --scope is docker, not all"
    )
    assert caught.value.hint == "sockaccel --pin-dir /p disable"
    assert datapath.closed
    with pytest.raises(StateError) as caught:
        lifecycle.is_enabled(pins.DEFAULT_PIN_DIR, Options("/b"))
    assert caught.value.hint == "sockaccel disable"


def test_what_is_pinned_and_not_attached_is_not_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = pinned(monkeypatch, attached=False)
    assert not lifecycle.is_enabled(Path("/p"), Options("/b"))
    assert datapath.closed


def test_nothing_pinned_is_not_enabled(tmp_path: Path) -> None:
    assert not lifecycle.is_enabled(tmp_path / "none", OURS)
