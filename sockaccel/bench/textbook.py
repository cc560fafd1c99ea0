"""The comparator benchmarks/textbook.c, held by a child process and gone with it.

The child is ``python -m sockaccel.bench.textbook CGROUP``. It attaches by a link
that it does not pin: however it ends, the kernel detaches the program then.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from sockaccel.bench import files
from sockaccel.bench.process import Child
from sockaccel.datapath import libbpf
from sockaccel.datapath.bcc_module import CapturedOutput, Module
from sockaccel.datapath.libbpf import AttachType, ProgType
from sockaccel.errors import SockaccelError
from sockaccel.signals import hold

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = "textbook.c"
START_TIMEOUT_S = 30.0


class Textbook:
    """The program, attached to one cgroup from start to stop."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._child: Child | None = None

    def start(self) -> None:
        """Load and attach it; connections made from now on are redirected, without a guard."""
        with hold():
            self._child = Child([sys.executable, "-P", "-m", __name__, str(self._cgroup)])
        self._child.await_ready("the textbook program", START_TIMEOUT_S)

    def stop(self) -> None:
        """Detach it. The sockets that it has enrolled must be closed, or they keep it."""
        with hold():
            if self._child is not None:
                self._child.end()
                self._child = None


def attach(cgroup: str, output: CapturedOutput) -> int:
    """Compile, load and attach; return the descriptor that holds it."""
    module = Module(f'#line 1 "{SOURCE}"\n{files.find(SOURCE).read_text()}', {}, output)
    ops = module.load("textbook_ops", ProgType.SOCK_OPS)
    msg = module.load("textbook_msg", ProgType.SK_MSG)
    libbpf.attach(msg, module.map_fd("textbook_map"), AttachType.SK_MSG_VERDICT)
    with libbpf.fd(os.open(cgroup, os.O_RDONLY)) as directory:
        return libbpf.link_cgroup(ops, directory, AttachType.CGROUP_SOCK_OPS)


def main() -> int:
    """Attach to the cgroup that is the one argument, say so, and wait to be ended."""
    output = CapturedOutput()
    try:
        attach(sys.argv[1], output)
    except (SockaccelError, OSError) as error:
        os.write(output.stderr, f"{error}\n".encode())
        return 1
    os.write(output.stdout, b"ready\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
