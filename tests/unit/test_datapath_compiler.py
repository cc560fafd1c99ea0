"""Both sides of the short-lived child, without BCC and without a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.datapath import bcc_module, btf, compiler, libbpf
from sockaccel.datapath.compiler import Request, compile_and_pin
from sockaccel.errors import (
    BccError,
    CompileError,
    LoadError,
    NotPermittedError,
    SockaccelError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUEST = Request("/pins", {"MAX_SOCKETS": 7})


class Child:
    """Stands for subprocess.run."""

    def __init__(self, stdout: str = "", stderr: str = "", code: int = 0) -> None:
        self.done = subprocess.CompletedProcess([], code, stdout, stderr)
        self.command: list[str] = []
        self.options: dict[str, Any] = {}

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.command, self.options = command, options
        return self.done


def with_child(monkeypatch: pytest.MonkeyPatch, child: Child) -> Child:
    monkeypatch.setattr(subprocess, "run", child)
    return child


def test_the_child_is_this_python_and_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    child = with_child(monkeypatch, Child('{"ok": true}'))
    compile_and_pin(REQUEST)
    assert child.command[0] == sys.executable
    assert child.command[-2:] == ["-m", "sockaccel.datapath.compiler"]
    assert json.loads(child.options["input"]) == {
        "directory": "/pins",
        "defines": {"MAX_SOCKETS": 7},
    }
    assert child.options["timeout"] == 60


@pytest.mark.parametrize(
    ("kind", "expected", "code"),
    [
        ("BccError", BccError, 78),
        ("CompileError", CompileError, 1),
        ("LoadError", LoadError, 1),
        ("NotPermittedError", NotPermittedError, 77),
        ("HostError", SockaccelError, 78),
        ("SomethingElse", SockaccelError, 1),
    ],
)
def test_an_error_of_the_child_is_raised_here_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    expected: type[SockaccelError],
    code: int,
) -> None:
    answer = {"ok": False, "kind": kind, "message": "cannot x: y", "hint": "z"}
    with_child(monkeypatch, Child(json.dumps(answer)))
    with pytest.raises(expected) as caught:
        compile_and_pin(REQUEST)
    assert (str(caught.value), caught.value.hint) == ("cannot x: y", "z")
    assert caught.value.exit_code == code


def test_a_child_that_dies_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = "".join(f"line {number}\n" for number in range(9))
    with_child(monkeypatch, Child(stderr=stderr, code=-11))
    with pytest.raises(LoadError) as caught:
        compile_and_pin(REQUEST)
    assert str(caught.value) == (
        "cannot load the programs: the loader ended with -11: "
        "line 3 | line 4 | line 5 | line 6 | line 7 | line 8"
    )
    assert caught.value.hint


def test_a_child_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(LoadError, match="more than 60 s") as caught:
        compile_and_pin(REQUEST)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("calls", "tracepoint", "loaded"),
    [({"NR_READ": 0}, 77, True), (None, 77, False), ({"NR_READ": 0}, None, False)],
)
def test_the_reader_is_loaded_where_system_calls_and_tracepoint_are_known(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    calls: dict[str, int] | None,
    tracepoint: int | None,
    loaded: bool,
) -> None:
    pinned: dict[str, object] = {}
    defined: dict[str, int] = {}
    asked: list[str] = []

    class Module:
        def __init__(self, _: str, defines: dict[str, int], __: object) -> None:
            defined.update(defines)

        def map_fd(self, name: str) -> object:
            return name

        def load(self, name: str, _: object) -> object:
            return name

        def instructions(self, name: str) -> bytes:
            return name.encode()

    class Types:
        def tracepoint(self, name: str) -> int | None:
            asked.append(name)
            return tracepoint

    monkeypatch.setattr(compiler, "Module", Module)
    monkeypatch.setattr(btf, "KernelTypes", Types)
    monkeypatch.setattr(btf, "system_calls", lambda: calls)
    monkeypatch.setattr(btf, "field_offsets", lambda: {"OFF_STATE": 18})
    monkeypatch.setattr(libbpf, "fd", contextlib.nullcontext)
    monkeypatch.setattr(libbpf, "link_iterator", lambda program, _: program)
    monkeypatch.setattr(libbpf, "load_tracepoint", lambda *args: args)
    monkeypatch.setattr(
        libbpf, "pin", lambda descriptor, path: pinned.update({path.name: descriptor})
    )
    compiler._build(Request(str(tmp_path), {"MAX_SOCKETS": 7}), None)  # type: ignore[arg-type]
    assert asked == ["tcp_rcv_space_adjust"]
    assert defined == {"OFF_STATE": 18, "MAX_SOCKETS": 7} | (calls or {})
    assert set(pinned) == {*compiler.MAPS, *compiler.PROGRAMS, "connections"} | (
        {"reader"} if loaded else set()
    )
    if loaded:
        assert pinned["reader"] == ("reader", b"reader", 77)


@dataclass
class Nothing:
    """A request that the child refuses before it touches anything."""


def test_the_child_imports_nothing_from_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("open('was-imported', 'w'); raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError):
        compile_and_pin(Nothing())  # type: ignore[arg-type]
    assert not (tmp_path / "was-imported").exists()


@pytest.fixture
def bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return the file that `import bcc` runs."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("bcc")}
    (tmp_path / "bcc").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "bcc" / "__init__.py"
    for name in [name for name in sys.modules if name.startswith("bcc")]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_the_package_of_the_same_name_is_named(bcc: Path) -> None:
    bcc.write_text("class Lattice: pass\n")
    with pytest.raises(BccError) as caught:
        bcc_module.import_bcc()
    assert str(caught.value) == (
        f"cannot use bcc from '{bcc}': it is not the BPF Compiler Collection"
    )
    hint = caught.value.hint or ""
    assert hint.startswith("pip uninstall bcc")
    assert "python3-bpfcc" in hint
    assert caught.value.exit_code == 78


def test_a_bcc_that_is_missing_is_to_be_installed_from_the_distribution(bcc: Path) -> None:
    sys.modules["bcc"] = None  # type: ignore[assignment]
    with pytest.raises(BccError, match="cannot import bcc") as caught:
        bcc_module.import_bcc()
    assert (caught.value.hint or "").startswith("apt-get install python3-bpfcc")
    assert caught.value.exit_code == 78


def test_a_binding_without_its_library_names_the_library(bcc: Path) -> None:
    bcc.write_text("raise OSError('libbcc.so.0: cannot open shared object file')\n")
    with pytest.raises(BccError, match=r"libbcc\.so\.0") as caught:
        bcc_module.import_bcc()
    assert caught.value.hint == "apt-get install libbpfcc"


def test_a_bcc_that_can_compile_is_taken(bcc: Path) -> None:
    bcc.write_text("BPF = object\n")
    assert bcc_module.import_bcc().BPF is object


def test_bcc_is_imported_by_no_import_of_ours() -> None:
    code = (
        "import sys, sockaccel.cli.enable, sockaccel.cli.disable, sockaccel.cli.status, "
        "sockaccel.cli.dump, sockaccel.cli.doctor; sys.exit('bcc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_compiler_gets_the_constants_and_the_headers_of_libc() -> None:
    flags = bcc_module.cflags({"A": 1, "B": 65536})
    assert flags[:2] == ["-DA=1", "-DB=65536"]
    assert flags[2:4] == ["-isystem", "/usr/include"]


def child_side(build: str) -> subprocess.CompletedProcess[str]:
    """Run the child with something else in the place of what builds."""
    code = (
        "import os\n"
        "from sockaccel.datapath import compiler\n"
        "from sockaccel.errors import *\n"
        "def build(request, log):\n"
        f"    {build}\n"
        "compiler._build = build\n"
        "raise SystemExit(compiler._main())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        input='{"directory": "/pins", "defines": {"A": 1}}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("build", "answer"),
    [
        ("assert request == compiler.Request('/pins', {'A': 1})", {"ok": True}),
        (
            "raise CompileError('cannot x: y', 'z')",
            {"ok": False, "kind": "CompileError", "message": "cannot x: y", "hint": "z"},
        ),
        (
            "raise NotPermittedError('cannot x: y')",
            {"ok": False, "kind": "NotPermittedError", "message": "cannot x: y", "hint": None},
        ),
        (
            "raise FileExistsError(17, 'File exists', '/pins/conns')",
            {
                "ok": False,
                "kind": "LoadError",
                "message": "cannot pin '/pins/conns': file exists (EEXIST)",
                "hint": "run as root, with --debug",
            },
        ),
    ],
)
def test_the_child_answers_with_one_object(build: str, answer: dict[str, object]) -> None:
    done = child_side(build)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == answer


def test_what_bcc_prints_is_no_part_of_the_answer_and_is_in_the_log() -> None:
    done = child_side(
        "os.write(1, b'to 1 '); os.write(2, b'to 2'); "
        "raise LoadError(' '.join(log.lines()), os.getcwd() and None)"
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["message"] == "to 1 to 2"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the directory that logs are kept in."""
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(bcc_module.tempfile, "tempdir", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("warning: w\nbpf/maps.h:3: error: no such x\n1 error: generated\n", "bpf/maps.h:3: error"),
        ("first\nR1 invalid mem access\nprocessed 7 insns\n\n", "R1 invalid mem access"),
        ("", "no reason given"),
    ],
)
def test_the_cause_is_taken_from_what_bcc_printed(kept: Path, log: str, cause: str) -> None:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    error = bcc_module.explained(CompileError, "compile the programs", lines)
    assert type(error) is CompileError
    assert str(error).startswith(f"cannot compile the programs: {cause}")
    (whole,) = kept.iterdir()
    assert str(whole) in (error.hint or "")
    assert whole.read_text().split("\n") == [line for line in log.split("\n") if line] or not log


def test_a_refusal_for_lack_of_rights_has_its_own_kind() -> None:
    lines = ["bpf: Failed to load: Operation not permitted"]
    error = bcc_module.explained(LoadError, "load the program 'sk_msg'", lines)
    assert type(error) is NotPermittedError
    assert str(error) == "cannot load the program 'sk_msg': operation not permitted (EPERM)"
    assert error.hint == "sockaccel doctor"


def test_the_compiler_brings_stubs_for_every_header_it_is_told_of() -> None:
    stubs = compiler.source.directory() / "stubs" / "include"
    assert os.path.isfile(stubs / "linux" / "kconfig.h")  # noqa: PTH113
    assert "CONFIG_BPF_SYSCALL" in (stubs / "linux" / "kconfig.h").read_text()
    assert "<linux/types.h>" in (stubs / "uapi" / "linux" / "bpf.h").read_text()
