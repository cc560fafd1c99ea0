"""Compiles, loads and pins the programs: the short-lived child, and its parent's side.

The child is ``python -m sockaccel.datapath.compiler``: a request as JSON on
stdin, an answer as JSON on the descriptor that stdout was.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sockaccel.datapath import btf, libbpf, source
from sockaccel.datapath.bcc_module import CapturedOutput, Module
from sockaccel.datapath.libbpf import ProgType
from sockaccel.errors import (
    BccError,
    CompileError,
    HostError,
    LoadError,
    NotPermittedError,
    SockaccelError,
    reason,
)

MAPS = (
    "sock_ops_map",
    "conns",
    "handshakes",
    "peers",
    "syn_cookies",
    "listeners",
    "known_programs",
    "programs",
    "scope",
    "netns_ports",
    "overrides",
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
READER = "reader"
"""On the tracepoint below. Missing where nobody knows the system calls of the CPU."""
READER_TRACEPOINT = "tcp_rcv_space_adjust"
ITERATOR = "bpf_iter__bpf_sk_storage_map"
ITERATOR_PIN = "connections"

_TIMEOUT_S = 60
_LOG_LINES = 6


_KINDS: dict[str, type[SockaccelError]] = {
    kind.__name__: kind
    for kind in (BccError, CompileError, HostError, LoadError, NotPermittedError)
}


@dataclass(frozen=True)
class Request:
    """What to build: where to pin, and the constants of the C text."""

    directory: str
    defines: dict[str, int]


def compile_and_pin(request: Request, lock: int | None = None) -> None:
    """Compile, load and pin everything below ``request.directory``, in a child.

    The child inherits the descriptor `lock`: should this process be killed, the
    lock lasts as long as somebody still writes below the directory.

    Raises:
        BccError: BCC is missing, unusable, or is the package of that name on PyPI.
        CompileError, LoadError: the text does not compile, or the kernel refused it.
        HostError: this kernel lacks what is needed.
        NotPermittedError: a capability is missing.

    """
    # -P: what lies in the working directory is not to be imported, least of all as root.
    command = [sys.executable, "-P", "-m", "sockaccel.datapath.compiler"]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(asdict(request)),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            pass_fds=() if lock is None else (lock,),
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
    raise _KINDS.get(answer["kind"], SockaccelError)(answer["message"], answer["hint"])


def _build(request: Request, output: CapturedOutput) -> None:
    directory = Path(request.directory)
    system_calls = btf.system_calls()
    defines = btf.field_offsets() | (system_calls or {}) | request.defines
    module = Module(source.assemble(), defines, output)
    for name in MAPS:
        libbpf.pin(module.map_fd(name), directory / name)
    for name, kind in PROGRAMS.items():
        libbpf.pin(module.load(name, kind), directory / name)
    tracepoint = btf.KernelTypes().tracepoint(READER_TRACEPOINT)
    if system_calls and tracepoint:
        instructions = module.instructions(READER)
        with libbpf.fd(libbpf.load_tracepoint(READER, instructions, tracepoint)) as reader:
            libbpf.pin(reader, directory / READER)
    iterator = module.load(ITERATOR, ProgType.TRACING)
    with libbpf.fd(libbpf.link_iterator(iterator, module.map_fd("conns"))) as link:
        libbpf.pin(link, directory / ITERATOR_PIN)


def _main() -> int:
    output = CapturedOutput()
    try:
        _build(Request(**json.load(sys.stdin)), output)
        answer: dict[str, Any] = {"ok": True}
    except SockaccelError as error:
        answer = _answer(error)
    except OSError as error:
        kind = NotPermittedError if error.errno in (errno.EPERM, errno.EACCES) else LoadError
        what = f"pin '{error.filename}'" if error.filename else "load the programs"
        answer = _answer(kind(f"cannot {what}: {reason(error)}", "run as root, with --debug"))
    os.write(output.stdout, json.dumps(answer).encode())
    return 0


def _answer(error: SockaccelError) -> dict[str, Any]:
    kind = type(error).__name__
    return {"ok": False, "kind": kind, "message": str(error), "hint": error.hint}


if __name__ == "__main__":
    sys.exit(_main())
