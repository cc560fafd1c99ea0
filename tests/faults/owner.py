"""Another owner of the same sockets: owner.c, held by a child process and gone with it.

The child is ``python -m faults.owner CGROUP``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Self

from sockaccel.bench.process import Child
from sockaccel.datapath import libbpf
from sockaccel.datapath.bcc_module import CapturedOutput, Module
from sockaccel.datapath.libbpf import AttachType, ProgType

SOURCE = Path(__file__).with_name("owner.c")
START_TIMEOUT_S = 30.0


class Owner:
    """The programs, attached to one cgroup. A context manager."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup

    def __enter__(self) -> Self:
        tests = str(Path(__file__).parents[1])
        self._child = Child(
            [sys.executable, "-m", "faults.owner", str(self._cgroup)], env={"PYTHONPATH": tests}
        )
        self._child.await_ready("the other owner", START_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()


def main() -> None:
    output = CapturedOutput()
    module = Module(f'#line 1 "{SOURCE.name}"\n{SOURCE.read_text()}', {}, output)
    ops = module.load("owner_ops", ProgType.SOCK_OPS)
    msg = module.load("owner_msg", ProgType.SK_MSG)
    libbpf.attach(msg, module.map_fd("owner_map"), AttachType.SK_MSG_VERDICT)
    with libbpf.fd(os.open(sys.argv[1], os.O_RDONLY)) as directory:
        link = libbpf.link_cgroup(ops, directory, AttachType.CGROUP_SOCK_OPS)
    os.write(output.stdout, b"ready\n")
    with libbpf.fd(link):
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
