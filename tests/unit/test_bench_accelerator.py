from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.bench.accelerator import Accelerator, Counters
from sockaccel.errors import BenchError, HostError, NotPermittedError, SockaccelError

if TYPE_CHECKING:
    from collections.abc import Callable

# Notes its arguments, then says and returns what the files beside it ask for.
FAKE = """
import os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "log").open("a") as log:
    print(*sys.argv[1:], file=log)
(here / "environment").write_text(
    "\\n".join(f"{name}={value}" for name, value in sorted(os.environ.items())
              if name == "DOCKER_HOST" or name.startswith("SOCKACCEL_"))
)
verb = next(word for word in sys.argv if word in ("enable", "disable", "status"))
out, err, code = (
    (path.read_text() if (path := here / f"{verb}.{name}").exists() else "")
    for name in ("out", "err", "code")
)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(int(code or 0))
"""


@pytest.fixture
def accelerator(tmp_path: Path) -> Accelerator:
    (tmp_path / "fake.py").write_text(FAKE)
    command = [sys.executable, str(tmp_path / "fake.py")]
    scope = ["--netns", "/ns/a", "--netns", "/ns/b"]
    return Accelerator(Path("/pins"), scope, Path("/none"), command)


def test_enable_is_given_the_scope(accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.enable()
    accelerator.disable()
    assert (tmp_path / "log").read_text().splitlines() == [
        "--pin-dir /pins enable --netns /ns/a --netns /ns/b",
        "--pin-dir /pins disable",
    ]


def test_neither_the_containers_nor_the_users_settings_take_part(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/docker.sock")
    monkeypatch.setenv("SOCKACCEL_SCOPE", "all")
    accelerator.enable()
    assert (tmp_path / "environment").read_text() == "DOCKER_HOST=unix:///none"


def test_disable_is_for_what_was_enabled(accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.disable()
    assert not (tmp_path / "log").exists()


def test_an_enable_that_failed_is_disabled_all_the_same(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    (tmp_path / "enable.code").write_text("1")
    with pytest.raises(BenchError, match="exit code 1"):
        accelerator.enable()
    accelerator.disable()
    accelerator.disable()
    assert (tmp_path / "log").read_text().splitlines()[1:] == ["--pin-dir /pins disable"]


@pytest.mark.parametrize("switch_on", [Accelerator.enable, Accelerator.counts_unread_bytes])
def test_the_error_of_enable_is_not_hidden_by_that_of_undoing_it(
    accelerator: Accelerator, tmp_path: Path, switch_on: Callable[[Accelerator], object]
) -> None:
    for verb in ("enable", "disable"):
        (tmp_path / f"{verb}.code").write_text("78")
        (tmp_path / f"{verb}.err").write_text(f"Error: why not {verb}\n")

    def as_a_stage_does() -> None:
        with ExitStack() as stack:
            stack.callback(accelerator.disable)
            switch_on(accelerator)

    with pytest.raises(HostError, match=r"cannot enable .*: why not enable$"):
        as_a_stage_does()
    assert (tmp_path / "log").read_text().split("\n")[1] == "--pin-dir /pins disable"


@pytest.mark.parametrize(
    ("code", "kind"), [(1, BenchError), (77, NotPermittedError), (78, HostError)]
)
def test_its_error_and_hint_are_handed_on(
    accelerator: Accelerator, tmp_path: Path, code: int, kind: type[SockaccelError]
) -> None:
    (tmp_path / "enable.code").write_text(str(code))
    (tmp_path / "enable.err").write_text("talk\nError: cannot x 'y': z (EPERM)\nHint: do it\n")
    with pytest.raises(kind, match=r"cannot enable .*: cannot x 'y': z \(EPERM\)$") as raised:
        accelerator.enable()
    assert raised.value.hint == "do it"


@pytest.mark.parametrize(
    ("code", "active", "counters"),
    [(0, "true", Counters(True, 7, 9)), (3, "false", Counters(False, 0, 0))],
)
def test_status_is_read_whether_it_is_on_or_off(
    accelerator: Accelerator, tmp_path: Path, code: int, active: str, counters: Counters
) -> None:
    (tmp_path / "status.code").write_text(str(code))
    (tmp_path / "status.out").write_text(
        f'{{"schema":"sockaccel.status/1","active":{active},'
        '"counters":{"redirected_bytes":7,"tcp_bytes":9}}'
    )
    assert accelerator.counters() == counters


def test_an_unknown_status_is_an_error_and_not_off(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    (tmp_path / "status.code").write_text("4")
    with pytest.raises(BenchError, match="cannot read sockaccel's status"):
        accelerator.counters()
