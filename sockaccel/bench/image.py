"""Images for containers, made of this machine's own programs: no registry is asked."""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sockaccel.bench.process import find_tool, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sockaccel.bench.dockerd import Dockerd

# What programs look up by name; "nobody" and "www-data" are what nginx's workers run as.
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/:/bin/sh\n"
        "www-data:x:33:33:www-data:/:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = {"tmp": 0o1777, "run": 0o755, "root": 0o700, "var/log/nginx": 0o755}
_DIRECTORIES |= {"var/lib/nginx": 0o755, "var/tmp": 0o1777}
_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}

_LIBRARY = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """A directory to take along; without: names below it, at any depth, that are left out."""

    path: Path
    without: frozenset[str] = frozenset()


# What a script needs of Python besides the interpreter; its own tests are larger than the rest.
PYTHON = Tree(
    Path("/usr/lib/python3.11"),
    frozenset({"test", "tests", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter"})
    | frozenset({"config-3.11-x86_64-linux-gnu", "config-3.11-aarch64-linux-gnu"}),
)


def build_image(
    dockerd: Dockerd, name: str, programs: Sequence[str], trees: Sequence[Tree] = ()
) -> None:
    """Make an image of programs, by name or path, with all the libraries that they load.

    Programs are where they are on this machine. Configuration, pages and scripts are for the
    user of the image to mount.

    Raises:
        HostError: a program is not installed.
        BenchError: Docker did not take the image.

    """
    with tempfile.NamedTemporaryFile(dir=dockerd.directory, suffix=".tar") as archive:
        write_rootfs(archive, programs, trees)
        archive.flush()
        dockerd.docker("import", archive.name, name)


def write_rootfs(archive: IO[bytes], programs: Sequence[str], trees: Sequence[Tree]) -> None:
    """Write the tar archive that build_image() makes an image of.

    Raises:
        HostError: a program is not installed.

    """
    wanted = {Path(_locate(program)) for program in programs}
    taken = {path for tree in trees for path in _files_below(tree)}
    libraries = _libraries(wanted | {path for path in taken if ".so" in path.suffixes})
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for link, target in _LINKS.items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for directory, mode in _DIRECTORIES.items():
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for file, text in _FILES.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        for path in sorted({_merged(path) for path in wanted | taken | libraries}):
            # Links are followed, and so a library has the name that its users ask for.
            tar.add(path.resolve(), arcname=str(path).lstrip("/"))


def parse_libraries(ldd_text: str) -> set[Path]:
    """Return the files that ldd's output names, the dynamic loader among them."""
    return {Path(found) for found in _LIBRARY.findall(ldd_text)}


def _locate(program: str) -> str:
    return program if program.startswith("/") else find_tool(program)


def _merged(path: Path) -> Path:
    """Return the path below /usr for one below /bin, /sbin, /lib or /lib64, which are links."""
    return Path("/usr", *path.parts[1:]) if path.parts[1] in _LINKS else path


def _files_below(tree: Tree) -> Iterable[Path]:
    for directory, below, names in os.walk(tree.path):
        below[:] = [name for name in below if name not in tree.without]
        yield from (Path(directory, name) for name in names)


def _libraries(paths: Iterable[Path]) -> set[Path]:
    files = [str(path) for path in paths]
    # ldd's exit code is 1 as soon as one file is static; what it prints is what counts.
    return parse_libraries(run([find_tool("ldd"), *files]).stdout) if files else set()
