"""The comparator benchmarks/textbook.c, held by a child process and gone with it.

The child is ``python -m sockaccel.bench.textbook CGROUP``. It attaches by a link
that it does not pin: however it ends, the kernel detaches the program then.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from sockaccel.bench.process import Child
from sockaccel.bench.signals import hold
from sockaccel.datapath import libbpf, source

# BCC is imported in one place only, and there is what it takes to be usable.
from sockaccel.datapath.compiler import _cflags, _classified, _import_bcc
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.errors import CompileError, LoadError, SockaccelError

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "textbook.c"
START_TIMEOUT_S = 30.0


class Textbook:
    """The program, attached to one cgroup from start to stop."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._child: Child | None = None

    def start(self) -> None:
        """Load and attach it; connections made from now on are redirected, without a guard."""
        with hold():
            self._child = Child([sys.executable, "-m", __name__, str(self._cgroup)])
        self._child.await_ready("the textbook program", START_TIMEOUT_S)

    def stop(self) -> None:
        """Detach it. The sockets that it has enrolled must be closed, or they keep it."""
        with hold():
            if self._child is not None:
                self._child.end()
                self._child = None


def attach(cgroup: str, log: Path) -> int:
    """Compile, load and attach; return the descriptor that holds it."""
    bcc = _import_bcc()
    os.environ["BCC_KERNEL_SOURCE"] = str(source.directory() / "stubs")
    text = f'#line 1 "{SOURCE.name}"\n{SOURCE.read_text()}'
    try:
        module = bcc.BPF(text=text, cflags=_cflags({}))
    except Exception as error:  # bcc raises nothing more specific
        raise _classified(CompileError, "compile the textbook program", log) from error
    try:
        ops = module.load_func("textbook_ops", int(ProgType.SOCK_OPS))
        msg = module.load_func("textbook_msg", int(ProgType.SK_MSG))
    except Exception as error:
        raise _classified(LoadError, "load the textbook program", log) from error
    sockets = bcc.lib.bpf_table_fd(module.module, b"textbook_map")
    libbpf.attach(msg.fd, sockets, AttachType.SK_MSG_VERDICT)
    with libbpf.fd(os.open(cgroup, os.O_RDONLY)) as directory:
        return libbpf.link_cgroup(ops.fd, directory, AttachType.CGROUP_SOCK_OPS)


def main() -> int:
    """Attach to the cgroup that is the one argument, say so, and wait to be ended."""
    answer, complaint = os.dup(1), os.dup(2)
    # BCC prints on both from C++. The file has no name, so that nobody needs to remove it.
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            attach(sys.argv[1], Path(f"/proc/self/fd/{log.fileno()}"))
        except (SockaccelError, OSError) as error:
            os.write(complaint, f"{error}\n".encode())
            return 1
    os.write(answer, b"ready\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
