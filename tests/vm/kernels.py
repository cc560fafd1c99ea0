"""Debian's kernels: found in the suites of this machine's own mirror, kept in a cache directory.

apt works on lists and a cache of its own here, so the machine's packages are not
touched. The sources are the machine's, with another suite in place of its own:
mirrors, proxies and keys are therefore right wherever the machine's are.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "sid": "sid"}
METAPACKAGE = "linux-image-amd64"
PARTS = re.compile(
    r"linux-(image|binary|modules|base)-\d"
)  # since 7.x a kernel is several packages
LISTS_STAY_FRESH_S = 24 * 3600


class KernelError(Exception):
    """A kernel cannot be had; says why."""


@dataclass(frozen=True)
class Kernel:
    """A kernel, unpacked: its image and the root that holds its modules."""

    name: str
    release: str
    image: Path
    root: Path


def cache_directory() -> Path:
    """Return where kernels are kept: below SOCKACCEL_CACHE, or where caches belong."""
    if chosen := os.environ.get("SOCKACCEL_CACHE"):
        return Path(chosen).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "sockaccel").absolute()
    return Path("/var/cache/sockaccel")


def sources_for(suite: str, etc: Path = Path("/etc/apt")) -> dict[str, str]:
    """Return apt's source files as this machine has them, with another suite, by file suffix.

    ``X`` becomes the suite, ``X-security`` the suite's security updates; other
    variants (-updates, -backports) are left out. Sources that are no mirror of
    Debian do no harm: the worst they have is no such suite.
    """

    def other(suites: str) -> str:
        bases = [name for name in suites.split() if "/" not in name]
        renamed = [suite for name in bases if "-" not in name]
        if suite != "sid":
            renamed += [f"{suite}-security" for name in bases if name.endswith("-security")]
        return " ".join(renamed)

    lines, stanzas = [], []
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        text = file.read_text()
        if file.suffix == ".list":
            for line in re.finditer(r"(?m)^deb\s+((?:\[.*?\]\s+)?\S+)\s+(\S+)\s+(.+)$", text):
                lines += [f"deb {line[1]} {name} {line[3]}" for name in other(line[2]).split()]
        elif file.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", text):
                found = re.search(r"(?m)^Suites:\s*(.*(?:\n[ \t].*)*)", stanza)
                if found and (names := other(found[1])):
                    kept = stanza[: found.start()] + f"Suites: {names}" + stanza[found.end() :]
                    stanzas.append(kept.strip())
    return {".list": "\n".join(lines) + "\n", ".sources": "\n\n".join(stanzas) + "\n"}


class PrivateApt:
    """apt for one suite, with state of its own."""

    def __init__(self, home: Path, suite: str) -> None:
        self.suite = suite
        self._stamp = home / "updated"
        self._archives = home / "cache" / "archives"
        parts = home / "sources"
        for directory in (home / "state/lists/partial", self._archives / "partial", parts):
            directory.mkdir(parents=True, exist_ok=True)
        for suffix, text in sources_for(suite).items():
            (parts / f"debian{suffix}").write_text(text)
        self._options = [
            f"--option={name}={value}"
            for name, value in {
                "Dir::Etc::SourceList": "/dev/null",
                "Dir::Etc::SourceParts": parts,
                "Dir::State": home / "state",
                "Dir::State::status": "/dev/null",
                "Dir::Cache": home / "cache",
                "APT::Sandbox::User": "root",  # the cache directory may be closed to _apt
                "APT::Architecture": "amd64",
            }.items()
        ]

    def _run(self, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [argv[0], *self._options, *argv[1:]],
            capture_output=True,
            text=True,
            cwd=cwd,
            check=False,
        )

    def update(self) -> str:
        """Fetch the lists unless they are fresh; return what apt said.

        Not every source of the machine has the suite, so apt's status says little:
        what counts is whether the kernel is found afterwards.
        """
        if self._stamp.exists() and time.time() - self._stamp.stat().st_mtime < LISTS_STAY_FRESH_S:
            return ""
        done = self._run("apt-get", "-qq", "update")
        if done.returncode == 0:
            self._stamp.touch()
        return done.stderr

    def depends(self, package: str) -> list[str]:
        """Return the packages that the newest version of a package depends on."""
        text = self._run("apt-cache", "show", "--no-all-versions", package).stdout
        found = re.search(r"(?m)^Depends: (.*)$", text)
        return re.findall(r"(?:^|, )([a-z0-9.+-]+)", found[1]) if found else []

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Fetch packages into a directory and return the files."""
        done = self._run("apt-get", "-qq", "download", *packages, cwd=into)
        if done.returncode:
            raise KernelError(f"cannot download {' '.join(packages)}: {done.stderr.strip()}")
        return sorted(into.glob("*.deb"))


def fetch(name: str) -> Kernel:
    """Return a kernel by its name in SUITES, from the cache or from Debian."""
    if name not in SUITES:
        raise KernelError(f"no kernel '{name}'; there are {', '.join(SUITES)}")
    home = cache_directory() / "vm" / name
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        apt = PrivateApt(home / "apt", SUITES[name])
        said = apt.update()
        images = [found for found in apt.depends(METAPACKAGE) if found.startswith("linux-image-")]
        if not images:
            raise KernelError(f"the suite {apt.suite} has no {METAPACKAGE}. {said.strip()}")
        release = images[0].removeprefix("linux-image-")
        root = home / "kernels" / release
        if not root.exists():
            _unpack(apt, images[0], root)
    image = next(root.glob("boot/vmlinuz-*"), root / "usr/lib/modules" / release / "vmlinuz")
    return Kernel(name, release, image, root)


def _unpack(apt: PrivateApt, image: str, root: Path) -> None:
    """Put a kernel where ``root`` says, in the place of older ones."""
    packages = [image, *(found for found in apt.depends(image) if PARTS.match(found))]
    shutil.rmtree(root.parent, ignore_errors=True)
    building = root.parent / "unfinished"
    building.mkdir(parents=True)
    for file in apt.download(packages, building):
        subprocess.run(["dpkg-deb", "-x", file, building], check=True)
        file.unlink()
    modules = building / "lib" / "modules"
    if not modules.exists():  # packages of a merged /usr
        modules.parent.mkdir(exist_ok=True)
        modules.symlink_to("../usr/lib/modules")
    release = image.removeprefix("linux-image-")
    subprocess.run(["depmod", "-b", building, release], check=True)
    building.rename(root)
