"""Compiles, loads and pins the programs: the short-lived child, and its parent's side.

The only module that imports bcc. BCC maps LLVM (about 130 MB), prints on both
standard descriptors from C++ and changes the working directory, so it gets a
process of its own: ``python -m sockaccel.datapath.compiler``, a request as JSON
on stdin, an answer as JSON on the descriptor that stdout was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sockaccel.datapath import btf, libbpf, source
from sockaccel.datapath.libbpf import ProgType
from sockaccel.errors import BccError, CompileError, LoadError, NotPermittedError, SockaccelError

MAPS = (
    "sock_ops_map",
    "conns",
    "handshakes",
    "peers",
    "scope",
    "ports",
    "local_networks",
    "counters",
    "config",
    "options",
)
PROGRAMS = {
    "sock_ops": ProgType.SOCK_OPS,
    "sk_msg": ProgType.SK_MSG,
    "sk_skb": ProgType.SK_SKB,
}
ITERATOR = "bpf_iter__bpf_sk_storage_map"
ITERATOR_PIN = "connections"

_INSTALL_HINT = "apt-get install python3-bpfcc (never `pip install bcc`: that is another project)"
_TIMEOUT_S = 60
_LOG_LINES = 6


@dataclass(frozen=True)
class Request:
    """What to build: where to pin, and the constants of the C text."""

    directory: str
    defines: dict[str, int]


def compile_and_pin(request: Request) -> None:
    """Compile, load and pin everything below ``request.directory``, in a child.

    Raises:
        BccError: BCC is missing, unusable, or is the package of that name on PyPI.
        CompileError, LoadError: the text does not compile, or the kernel refused it.
        NotPermittedError: a capability is missing.

    """
    command = [sys.executable, "-m", "sockaccel.datapath.compiler"]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(asdict(request)),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(
            f"cannot load the programs: the loader took more than {_TIMEOUT_S} s",
            "try again on a quieter machine, with --debug",
        ) from error
    try:
        answer: dict[str, Any] = json.loads(child.stdout)
    except ValueError as error:
        tail = " | ".join(child.stderr.strip().splitlines()[-_LOG_LINES:])
        raise LoadError(
            f"cannot load the programs: the loader ended with {child.returncode}: {tail}",
            "run again with --debug and report it",
        ) from error
    if answer["ok"]:
        return
    kinds: dict[str, type[SockaccelError]] = {
        kind.__name__: kind for kind in (BccError, CompileError, LoadError, NotPermittedError)
    }
    raise kinds.get(answer["kind"], SockaccelError)(answer["message"], answer["hint"])


def _import_bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415 - maps LLVM, so only here
    except ImportError as error:
        raise BccError(f"cannot import bcc: {error}", _INSTALL_HINT) from error
    except OSError as error:  # the binding is there, its library is not
        raise BccError(f"cannot import bcc: {error}", "apt-get install libbpfcc") from error
    if not hasattr(bcc, "BPF"):
        raise BccError(
            f"cannot use bcc from '{bcc.__file__}': it is not the BPF Compiler Collection",
            "pip uninstall bcc; " + _INSTALL_HINT,
        )
    return bcc


def _cflags(defines: dict[str, int]) -> list[str]:
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    for directory in ("/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"):
        flags += ["-isystem", directory]
    return flags


def _build(request: Request, log: Path) -> None:
    bcc = _import_bcc()
    # A tree of stubs in the place of kernel headers: none need to be installed.
    os.environ["BCC_KERNEL_SOURCE"] = str(source.directory() / "stubs")
    defines = btf.field_offsets() | request.defines
    try:
        module = bcc.BPF(text=source.assemble(), cflags=_cflags(defines))
    except Exception as error:  # bcc raises nothing more specific
        raise _classified(CompileError, "compile the programs", log) from error
    directory = Path(request.directory)
    for name in MAPS:
        libbpf.pin(bcc.lib.bpf_table_fd(module.module, name.encode()), directory / name)
    for name, kind in (PROGRAMS | {ITERATOR: ProgType.TRACING}).items():
        try:
            function = module.load_func(name, int(kind))
        except Exception as error:
            raise _classified(LoadError, f"load the program '{name}'", log) from error
        if name == ITERATOR:
            conns = bcc.lib.bpf_table_fd(module.module, b"conns")
            with libbpf.fd(libbpf.link_iterator(function.fd, conns)) as link:
                libbpf.pin(link, directory / ITERATOR_PIN)
        else:
            libbpf.pin(function.fd, directory / name)


def _classified(kind: type[SockaccelError], action: str, log: Path) -> SockaccelError:
    """Return the error behind BCC's words: what it printed last, and EPERM by its right name."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    kept = Path(tempfile.gettempdir()) / f"sockaccel-{kind.__name__}-{os.getpid()}.log"
    kept.write_text("\n".join(lines))
    if any("Operation not permitted" in line for line in lines):
        return NotPermittedError(
            f"cannot {action}: operation not permitted (EPERM)",
            "run as root with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; see `grep Cap "
            "/proc/self/status` and /sys/kernel/security/lockdown",
        )
    cause = (errors or lines[-2:] or ["no reason given"])[0]
    return kind(f"cannot {action}: {cause}", f"read {kept} and report it with `uname -r`")


def _main() -> int:
    answer_fd = os.dup(1)
    log = tempfile.NamedTemporaryFile(prefix="sockaccel-")  # noqa: SIM115
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    request = Request(**json.load(sys.stdin))
    answer: dict[str, Any] = {"ok": True}
    try:
        _build(request, Path(log.name))
    except SockaccelError as error:
        kind = type(error).__name__
        answer = {"ok": False, "kind": kind, "message": str(error), "hint": error.hint}
    except OSError as error:
        message = f"cannot pin '{error.filename}': {error.strerror}"
        answer = {"ok": False, "kind": "LoadError", "message": message, "hint": None}
    os.write(answer_fd, json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
