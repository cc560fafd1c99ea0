"""What is done with BCC: compile a text, load its programs. The only import of bcc.

BCC maps LLVM (about 130 MB), prints on both standard descriptors from C++ and
changes the working directory. Whoever uses this is a short-lived process whose
output goes to `CapturedOutput`.
"""

from __future__ import annotations

import os
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sockaccel.datapath import source
from sockaccel.errors import BccError, CompileError, LoadError, NotPermittedError, SockaccelError

if TYPE_CHECKING:
    from sockaccel.datapath.libbpf import ProgType

_INSTALL_HINT = "apt-get install python3-bpfcc (never `pip install bcc`: that is another project)"


class CapturedOutput:
    """Standard output and error of this process, from now on in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.stdout, self.stderr = os.dup(1), os.dup(2)
        """Where they went before."""
        os.dup2(self._file.fileno(), 1)
        os.dup2(self._file.fileno(), 2)

    def lines(self) -> list[str]:
        """Return what was printed, without empty lines."""
        size = os.fstat(self._file.fileno()).st_size
        text = os.pread(self._file.fileno(), size, 0).decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]


class Module:
    """A compiled text. Its maps exist; its programs are loaded one by one."""

    def __init__(self, text: str, defines: dict[str, int], output: CapturedOutput) -> None:
        """Compile.

        Raises:
            BccError: BCC is missing, unusable, or is the package of that name on PyPI.
            CompileError: the text does not compile, or a map cannot be made.
            NotPermittedError: a capability is missing.

        """
        self._bcc = import_bcc()
        self._output = output
        # A tree of stubs in the place of kernel headers: none need to be installed.
        os.environ["BCC_KERNEL_SOURCE"] = str(source.directory() / "stubs")
        try:
            self._module = self._bcc.BPF(text=text, cflags=cflags(defines))
        except Exception as error:  # bcc raises nothing more specific
            raise explained(CompileError, "compile the programs", output.lines()) from error

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a map, open as long as this object."""
        return int(self._bcc.lib.bpf_table_fd(self._module.module, name.encode()))

    def load(self, name: str, kind: ProgType) -> int:
        """Load a program; return its descriptor, open as long as this object.

        Raises:
            LoadError: the kernel refused it.
            NotPermittedError: a capability is missing.

        """
        try:
            return int(self._module.load_func(name, int(kind)).fd)
        except Exception as error:  # bcc raises nothing more specific
            lines = self._output.lines()
            raise explained(LoadError, f"load the program '{name}'", lines) from error

    def instructions(self, name: str) -> bytes:
        """Return the instructions of a program that BCC cannot load; its maps are in place."""
        return bytes(self._module.dump_func(name))


def import_bcc() -> Any:
    """Return the module bcc.

    Raises:
        BccError: it is missing, unusable, or is the package of that name on PyPI.

    """
    try:
        import bcc  # noqa: PLC0415 - maps LLVM, so only here
    except OSError as error:  # the binding is there, its library is not
        raise BccError(f"cannot import bcc: {error}", "apt-get install libbpfcc") from error
    except Exception as error:  # whatever an impostor does at import
        raise BccError(f"cannot import bcc: {error}", _INSTALL_HINT) from error
    if not hasattr(bcc, "BPF"):
        raise BccError(
            f"cannot use bcc from '{bcc.__file__}': it is not the BPF Compiler Collection",
            "pip uninstall bcc; " + _INSTALL_HINT,
        )
    return bcc


def cflags(defines: dict[str, int]) -> list[str]:
    """Return clang's arguments: the constants, and where the C library's headers are."""
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    for directory in ("/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"):
        flags += ["-isystem", directory]
    return flags


def explained(kind: type[SockaccelError], action: str, lines: list[str]) -> SockaccelError:
    """Return the error behind what BCC printed: EPERM by its right name, all else in a file."""
    if any("Operation not permitted" in line for line in lines):
        return NotPermittedError(
            f"cannot {action}: operation not permitted (EPERM)",
            "sockaccel doctor",  # which looks at capabilities, user namespace and lockdown
        )
    descriptor, kept = tempfile.mkstemp(prefix="sockaccel-", suffix=".log")
    os.close(descriptor)
    Path(kept).write_text("\n".join(lines), encoding="utf-8")
    errors = [line for line in lines if "error:" in line]
    cause = (errors or lines[-2:] or ["no reason given"])[0]
    return kind(f"cannot {action}: {cause}", f"read {kept} and report it with `uname -r`")
