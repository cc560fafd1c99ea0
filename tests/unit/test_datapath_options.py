from __future__ import annotations

import dataclasses
import json

import pytest

from sockaccel.datapath.layout import OPTIONS_SIZE
from sockaccel.datapath.options import Options
from sockaccel.errors import InputError
from sockaccel.scope.selection import Policy

OTHERS: dict[str, tuple[object, str]] = {
    "cgroup": ("/b", "--cgroup is /a, not /b"),
    "scope": ("all", "--scope is docker, not all"),
    "policy": ("all", "--policy is safe, not all"),
    "netns": (("/n/1", "/n/2"), "--netns is unset, not /n/1,/n/2"),
    "ports": ("80,8000-8999", "--ports is unset, not 80,8000-8999"),
    "max_connections": (7, "--max-connections is 65536, not 7"),
    "docker_host": ("unix:///d", "--docker-host is unset, not unix:///d"),
    "accelerate": (("java", "nginx"), "--accelerate is unset, not java,nginx"),
    "keep_on_tcp": (("haproxy",), "--keep-on-tcp is unset, not haproxy"),
    "opt_in": (True, "--opt-in is unset, not set"),
    "network": (("back", "front"), "--network is unset, not back,front"),
    "project": (("shop",), "--project is unset, not shop"),
}


def changed() -> Options:
    return Options(**{name: value for name, (value, _) in OTHERS.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [Options("/a"), changed(), Options("/é\udcff")])
def test_what_is_stored_is_what_was_given(options: Options) -> None:
    stored = options.to_bytes()
    assert len(stored) == OPTIONS_SIZE
    assert Options.from_bytes(stored) == options


def test_every_option_is_compared() -> None:
    assert {field.name for field in dataclasses.fields(Options)} == set(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_a_difference_names_the_option_and_both_values(name: str) -> None:
    value, text = OTHERS[name]
    first = Options("/a")
    second = dataclasses.replace(first, **{name: value})
    assert first.differences(second) == [text]
    assert first.differences(first) == second.differences(second) == []


def test_all_differences_are_named_from_the_side_of_what_is_enabled() -> None:
    assert Options("/a").differences(changed()) == [text for _, text in OTHERS.values()]
    assert "--cgroup is /b, not /a" in changed().differences(Options("/a"))
    assert "--netns is /n/1,/n/2, not not set" not in changed().differences(changed())


def test_options_as_long_as_fits_are_stored_and_no_longer() -> None:
    empty = len(json.dumps(dataclasses.asdict(Options(""))))
    longest = Options("x" * (OPTIONS_SIZE - 1 - empty))
    assert Options.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(InputError) as caught:
        Options(longest.cgroup + "x").to_bytes()
    assert str(caught.value) == "cannot store the options: 16384 bytes, at most 16383"
    assert "--netns" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_what_a_newer_version_stored_is_passed_over() -> None:
    stored = json.dumps({"cgroup": "/a", "netns": ["/n"], "colour": "blue"}).encode()
    assert Options.from_bytes(stored + bytes(9)) == Options("/a", netns=("/n",))


def test_what_an_older_version_did_not_store_has_its_default() -> None:
    assert Options.from_bytes(b'{"cgroup": "/a"}') == Options("/a")


def test_what_is_compared_after_being_stored_is_equal() -> None:
    """Lists come back from JSON where tuples went in."""
    stored = Options.from_bytes(changed().to_bytes())
    assert stored.differences(changed()) == changed().differences(stored) == []
    for name in ("netns", "accelerate", "keep_on_tcp", "network", "project"):
        assert isinstance(getattr(stored, name), tuple), name
        assert getattr(Options.from_bytes(b'{"cgroup": "/a"}'), name) == (), name


FIXED = {"cgroup", "scope", "max_connections"}


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_programs_were_loaded_and_attached_with_is_fixed(name: str) -> None:
    value, text = OTHERS[name]
    first = Options("/a")
    assert first.fixed_differences(dataclasses.replace(first, **{name: value})) == (
        [text] if name in FIXED else []
    )


def test_the_selection_is_what_the_options_say() -> None:
    assert Options("/a").selection == Policy()
    assert changed().selection == Policy(True, ("back", "front"), ("shop",))


@pytest.mark.parametrize("stored", [b"", bytes(8), b"{", b"\xff", b"{}"])
def test_what_is_no_options_is_refused(stored: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Options.from_bytes(stored)
