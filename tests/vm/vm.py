"""Run a command in a virtual machine with one of Debian's kernels; see scripts/vm."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from vm import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# What the initramfs needs to reach the root file system of this machine.
MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"]
PROGRAMS = ["sh", "mount", "mkdir", "insmod", "switch_root"]
# Of this process's environment the command gets these; the rest is this machine's business.
ENVIRONMENT = re.compile(r"PATH|HOME|TERM|LANG|COLUMNS|LINES|(SOCKACCEL|PYTEST)_.*")
TROUBLE = re.compile(rb"Kernel panic|Oops|BUG:|WARNING:|general protection fault")
TIMED_OUT, BROKEN = 124, 125


# --- The initramfs --------------------------------------------------------------------------


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return an archive as the kernel reads it (newc): contents and modes by name."""

    def pad(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 4)

    archive = bytearray()
    entries = [*files.items(), ("TRAILER!!!", (0, b""))]
    for number, (name, (mode, data)) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += pad(b"070701" + b"".join(b"%08x" % field for field in fields) + path)
        archive += pad(data)
    return bytes(archive)


def with_libraries(program: str) -> Iterator[tuple[str, bytes]]:
    """Return a program and the shared libraries it needs, by their paths."""
    path = shutil.which(program)
    if not path:
        raise kernels.KernelError(f"this machine has no {program}")
    yield f"bin/{program}", Path(path).read_bytes()
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        yield library[1:], Path(library).read_bytes()


def initramfs(kernel: kernels.Kernel) -> bytes:
    """Return the initramfs: its init, the programs it uses, and the modules in loading order."""
    files: dict[str, bytes] = {"init": (HERE / "init").read_bytes()}
    for program in PROGRAMS:
        files |= with_libraries(program)
    loading: list[Path] = []
    for module in MODULES:
        shown = subprocess.run(
            ["modprobe", "-d", kernel.root, "-S", kernel.release, "--show-depends", module],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        loading += [Path(path) for path in re.findall(r"(?m)^insmod (\S+)", shown)]
    for number, path in enumerate(dict.fromkeys(loading)):
        files[f"modules/{number:02}-{path.name}"] = path.read_bytes()
    directories = {"proc", "dev", "sys", "run", "lower", "upper", "root"}
    directories |= {str(parent) for name in files for parent in Path(name).parents} - {"."}
    made = dict.fromkeys(sorted(directories), (0o40755, b""))
    return cpio(made | {name: (0o100755, data) for name, data in files.items()})


# --- The machine ----------------------------------------------------------------------------


def command_file(argv: list[str], directory: Path) -> str:
    """Return a shell script that runs a command in a directory, with the chosen environment."""
    exported = [
        f"export {name}={shlex.quote(value)}\n"
        for name, value in os.environ.items()
        if ENVIRONMENT.fullmatch(name)
    ]
    return f"{''.join(exported)}cd {shlex.quote(str(directory))}\nexec {shlex.join(argv)}\n"


def qemu(
    kernel: kernels.Kernel, run: Path, options: argparse.Namespace, pipes: list[int]
) -> list[str]:
    """Return qemu's command line; the pipes are of the console and the three ports."""
    kernel_options = [
        "console=ttyS0",
        "loglevel=5" if pipes else "quiet INTERACTIVE=1",
        "oops=panic",
        "panic=-1",
        f"RUN={run}",
        f"MODULES={kernel.root}/lib/modules",
        *(["SYSTEMD=1"] if options.systemd else []),
    ]
    host = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    words = [
        ("-display", "none"),
        ("-cpu", "max"),
        ("-accel", "tcg,thread=single"),  # several threads crash some kernels
        ("-smp", str(options.cpus)),
        ("-m", str(options.memory)),
        ("-kernel", str(kernel.image)),
        ("-initrd", str(run / "initramfs")),
        ("-append", " ".join(kernel_options)),
        ("-virtfs", host),
        ("-device", "virtio-serial-pci"),
        ("-serial", "chardev:c0"),
    ]
    if pipes:
        for number, pipe in enumerate(pipes):
            words += [
                ("-add-fd", f"fd={pipe},set={number + 1}"),
                ("-chardev", f"file,id=c{number},path=/dev/fdset/{number + 1},append=on"),
            ]
    else:
        words += [("-chardev", "stdio,id=c0,signal=off")]
        words += [("-chardev", f"null,id=c{number}") for number in range(1, 4)]
    words += [
        ("-device", f"virtserialport,chardev=c{number},nr={number}") for number in range(1, 4)
    ]
    # The machine ends with this process, however that ends.
    start = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
    start += ["-nodefaults", "-no-user-config", "-no-reboot"]
    return start + [word for pair in words for word in pair]


def boot(kernel: kernels.Kernel, argv: list[str], options: argparse.Namespace) -> int:
    """Run a command in a VM and return its exit status, TIMED_OUT or BROKEN."""
    cache = kernels.cache_directory() / "vm"
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as directory:
        run = Path(directory)
        run.chmod(0o755)
        (run / "initramfs").write_bytes(initramfs(kernel))
        (run / "command").write_text(command_file(argv or ["bash", "-i"], CHECKOUT))
        shutil.copy(HERE / "guest", run / "guest")
        if not argv:
            return subprocess.run(qemu(kernel, run, options, []), check=False).returncode
        return _relay(kernel, run, options)


def _relay(kernel: kernels.Kernel, run: Path, options: argparse.Namespace) -> int:
    """Run qemu, pass on what the command prints, and return its exit status."""
    pipes = [os.pipe() for _ in range(4)]
    writers = [writer for _, writer in pipes]
    with contextlib.ExitStack() as stack:
        machine = subprocess.Popen(
            qemu(kernel, run, options, writers), stdin=subprocess.DEVNULL, pass_fds=writers
        )
        stack.callback(machine.wait)
        stack.callback(machine.kill)
        for writer in writers:
            os.close(writer)
        console, status = io.BytesIO(), io.BytesIO()
        selector = stack.enter_context(selectors.DefaultSelector())
        for (reader, _), sink in zip(
            pipes, (console, sys.stdout.buffer, sys.stderr.buffer, status), strict=True
        ):
            selector.register(reader, selectors.EVENT_READ, sink)
            stack.callback(os.close, reader)
        deadline = time.monotonic() + options.timeout
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if not (data := os.read(key.fd, 1 << 16)):
                    selector.unregister(key.fileobj)
                    continue
                key.data.write(data)
                key.data.flush()
        timed_out = bool(selector.get_map())
    said, answer = console.getvalue(), status.getvalue().strip()
    if options.console or timed_out or not answer or TROUBLE.search(said):
        sys.stderr.buffer.write(b"--- kernel console\n" + said + b"--- end of kernel console\n")
        sys.stderr.flush()
    if timed_out:
        print(f"vm: ended after {options.timeout} s", file=sys.stderr)
        return TIMED_OUT
    return int(answer) if answer else BROKEN


# --- The command line -----------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/vm", description=__doc__)
    parser.add_argument("--timeout", type=float, default=600, help="seconds (default: 600)")
    parser.add_argument("--memory", type=int, default=2048, help="megabytes (default: 2048)")
    parser.add_argument("--cpus", type=int, default=1, help="emulated in turn (default: 1)")
    parser.add_argument("--systemd", action="store_true", help="as the machine's process 1")
    parser.add_argument("--console", action="store_true", help="show the kernel's messages")
    parser.add_argument("kernel", choices=list(kernels.SUITES))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _frame: sys.exit(128 + number))
    try:
        return boot(kernels.fetch(options.kernel), options.command, options)
    except kernels.KernelError as error:
        print(f"Error: cannot run kernel '{options.kernel}': {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
