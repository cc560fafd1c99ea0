"""What of switching on and off needs no kernel."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self

import pytest

from sockaccel.datapath import lifecycle, pins
from sockaccel.datapath.lifecycle import network_keys
from sockaccel.datapath.options import Options
from sockaccel.datapath.state import Datapath
from sockaccel.errors import NotPermittedError, StateError

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
    made = Pinned(attached=attached, complete=True, options=OURS, closed=False)
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
