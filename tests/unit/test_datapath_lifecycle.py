"""What of switching on and off needs no kernel."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest

from sockaccel.datapath import libbpf, lifecycle, pins
from sockaccel.datapath.layout import ProgramKey, ScopeFlags, Side, Trait
from sockaccel.datapath.lifecycle import Scope, network_keys
from sockaccel.datapath.options import Options
from sockaccel.datapath.state import Datapath
from sockaccel.errors import NotPermittedError, StateError
from sockaccel.scope.netns import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = Options("/a")


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ("10.1.2.0/24", "78000000 00000000000000000000ffff 0a010200"),
        ("127.0.0.0/8", "68000000 00000000000000000000ffff 7f000000"),
        ("192.0.2.7/32", "80000000 00000000000000000000ffff c0000207"),
        ("0.0.0.0/0", "60000000 00000000000000000000ffff 00000000"),
        ("::1/128", "80000000 00000000000000000000000000000001"),
        ("fd00:1::/64", "40000000 fd000001000000000000000000000000"),
        ("::/0", "00000000 00000000000000000000000000000000"),
    ],
)
def test_the_key_of_a_network_is_the_bytes_that_the_kernel_looks_up(network: str, key: str) -> None:
    assert network_keys([ip_network(network)]) == [bytes.fromhex(key)]


def test_every_network_has_its_key() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("fe80::/10")]
    assert network_keys(networks) == [key for one in networks for key in network_keys([one])]
    assert network_keys([]) == []


class Maps:
    """As much of an opened datapath as writing to its maps takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: dict[str, dict[bytes, bytes]] = {}
        monkeypatch.setattr(lifecycle, "Datapath", lambda _: self)
        monkeypatch.setattr(
            libbpf,
            "update",
            lambda name, key, value: self.written.setdefault(name, {}).update({key: value}),
        )
        monkeypatch.setattr(libbpf, "attach", lambda *_: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fd(self, name: str) -> str:
        return name


def words(written: dict[bytes, bytes]) -> dict[bytes, int]:
    assert {len(value) for value in written.values()} <= {4}
    return {key: int.from_bytes(value, "little") for key, value in written.items()}


def test_the_maps_are_told_who_is_in_scope_and_which_programs_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = Maps(monkeypatch)
    namespaces = (Namespace(5, "/n/5"), Namespace(1 << 40, "/n/6", "web", policy_all=True))
    options = Options("/a", accelerate=("a" * 20, "haproxy"), keep_on_tcp=("nginx",))
    lifecycle._fill(Path("/p"), options, Scope(namespaces, None, frozenset()), 9)
    assert words(maps.written["scope"]) == {
        (5).to_bytes(8, "little"): ScopeFlags.MEMBER,
        (1 << 40).to_bytes(8, "little"): ScopeFlags.MEMBER | ScopeFlags.POLICY_ALL,
    }
    known = words(maps.written["known_programs"])
    assert known[b"a" * 15 + b"\0"] == known[b"haproxy".ljust(16, b"\0")] == Trait.FORCED
    assert known[b"nginx".ljust(16, b"\0")] == Trait.REFUSED
    assert known[b"curl".ljust(16, b"\0")] == Trait.RECV
    assert Options.from_bytes(maps.written["options"][bytes(4)]) == options


def test_the_policy_hears_of_listeners_only_where_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps(monkeypatch)
    key = ProgramKey(b"nginx", 1, 2, 3, Side.SERVER)
    lifecycle._introduce(Path("/p"), Options("/a"), lambda: {7: key})
    assert maps.written == {"listeners": {(7).to_bytes(8, "little"): bytes(key)}}
    maps.written.clear()
    everything = Options("/a", policy="all")
    lifecycle._introduce(Path("/p"), everything, lambda: pytest.fail("listeners were looked for"))
    assert maps.written == {}


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    def check(mask: int) -> None:
        text = f"CapPrm:\tffffffffffffffff\nCapEff:\t{mask:016x}\nCapBnd:\tffffffffffffffff\n"
        (tmp_path / "status").write_text(text)
        monkeypatch.setattr(lifecycle, "Path", lambda name: tmp_path / Path(name).name)
        lifecycle.check_capabilities()

    return check


def test_all_capabilities_are_enough(capabilities: Callable[[int], None]) -> None:
    capabilities((1 << 41) - 1)
    capabilities(1 << 12 | 1 << 21 | 1 << 38 | 1 << 39)


@pytest.mark.parametrize(
    ("bit", "name"),
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")],
)
def test_a_capability_that_is_missing_is_named(
    capabilities: Callable[[int], None], bit: int, name: str
) -> None:
    with pytest.raises(NotPermittedError) as caught:
        capabilities(((1 << 41) - 1) & ~(1 << bit))
    assert str(caught.value) == f"cannot change the datapath: missing {name} (EPERM)"
    assert (caught.value.exit_code, caught.value.hint) == (77, "run as root")


def test_without_any_all_are_named(capabilities: Callable[[int], None]) -> None:
    with pytest.raises(
        NotPermittedError, match="CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"
    ):
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
