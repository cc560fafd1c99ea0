"""A Docker daemon of one's own, which shares nothing with the host's.

    with Dockerd(directory) as dockerd:
        build_image(dockerd, "web", ["nginx"])
        dockerd.docker("run", "--detach", "--name", "web", "web", "nginx", "-g", "daemon off;")

It runs in a network namespace of its own, which plays the host: bridges, iptables
rules and sysctls are made there, and go with it. All of its processes and all of
its containers' are in a cgroup (v2) of its own, so that sockaccel can be attached
to them alone. The names of both are the directory's. It has its own containerd, too:
where one runs as a service, as beside every Docker that is installed, dockerd would
use that one.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.bench.built import Built
from sockaccel.bench.lab import NETNS_DIR
from sockaccel.bench.process import SYSTEM_PATH, Child, find_tool, last_line, run, run_checked
from sockaccel.errors import BenchError, HostError, reason
from sockaccel.scope.cgroup import default_cgroup
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 60.0

# Waits until its owner closes its stdin or is killed, then removes everything: one way to the
# end, whatever came before. No process of the daemon's can have left its cgroup, because none is
# told of another one. Docker and containerd have two directories that no option moves.
# $1: cgroup, $2: network namespace, $3: directory.
_UNDERTAKER = """
made=
for directory in /run/docker /run/docker/plugins /run/containerd /run/containerd/s; do
    [ -d "$directory" ] || made="$directory $made"
done
cat >/dev/null
while grep -qs 'populated 1' "$1/cgroup.events"; do echo 1 >"$1/cgroup.kill"; sleep 0.02; done
cat "$3"/exec/containerd/*/moby/*/address 2>/dev/null |
    sed 's,unix://,\\n,g' | grep '^/run/containerd/s/' | xargs -r rm -f
grep -F " $3/" /proc/self/mountinfo | cut -d' ' -f5 | sort -r | xargs -r umount -l
for tree in "$1" /sys/fs/cgroup/*/"${1##*/}"; do
    [ ! -d "$tree" ] || find "$tree" -depth -type d -exec rmdir {} +
done
[ ! -e "/run/netns/$2" ] || ip netns delete "$2"
rm -rf "$3"
[ -z "$made" ] || rmdir $made 2>/dev/null || true
"""

# cri would listen for Kubernetes, opt would make /opt/containerd.
_CONTAINERD = """\
version = 2
root = "{directory}/data/containerd"
state = "{directory}/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/containerd.sock"
"""
# The path of a Unix socket has 107 characters at most; a mount table escapes others than these,
# and a colon ends the source of a volume.
_DIRECTORY = re.compile(r"[\w./-]{1,70}", re.ASCII)
_IN_CGROUP = 'echo 0 >"$1/cgroup.procs" && log=$2 && shift 2 && exec "$@" >>"$log" 2>&1'


class Dockerd(Built):
    """A daemon with its own directories, socket, network namespace and cgroup.

    directory is made, and removed at the end with all the daemon has written; its name must be
    new on this host.
    iptables: whether the daemon makes rules, without which no port is published by DNAT.
    options: more of dockerd's, such as ``--live-restore``.
    Raises HostError where Docker is not installed, or the path will not do.
    """

    def __init__(
        self, directory: Path, *, iptables: bool = True, options: Sequence[str] = ()
    ) -> None:
        if not _DIRECTORY.fullmatch(str(directory)):
            raise HostError(
                f"cannot start dockerd in '{directory}': the path is too long or not plain",
                "TMPDIR=/tmp",
            )
        self.directory = directory
        self.socket = directory / "docker.sock"
        self.netns = NETNS_DIR / directory.name
        self.cgroup = default_cgroup() / directory.name
        self.log = directory / "log"
        self._iptables = iptables
        self._options = list(options)
        self._docker = _find("docker")
        self._dockerd = _find("dockerd")
        self._containerd: Child | None = None
        self._daemon: Child | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What DOCKER_HOST and --docker-host take."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The daemon's process; it must run."""
        assert self._daemon is not None
        return self._daemon.pid

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs argv on the daemon's "host": in its network namespace.

        By nsenter, which leaves bpffs and the cgroups in sight; `ip netns exec` hides them.
        """
        return [find_tool("nsenter"), f"--net={self.netns}", *argv]

    def client(self, *arguments: str | Path) -> list[str]:
        """Return the command that runs Docker's own client; the user's settings take no part."""
        options = [f"--config={self.directory}", f"--host={self.url}", "--tls=false"]
        return [self._docker, *options, *map(str, arguments)]

    def docker(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command of Docker's own client and return its output without the line's end.

        Raises:
            BenchError: it failed or did not end in time.

        """
        done = run(self.client(*arguments), timeout_s=timeout_s)
        if done.returncode != 0:
            shown = " ".join(["docker", *map(str, arguments)])
            raise BenchError(f"cannot run '{shown}': {_complaint(done.stderr, done.returncode)}")
        return done.stdout.rstrip("\n")

    def start(self) -> None:
        """Start the daemon; return when it answers.

        Raises:
            BenchError: it ended, or did not answer in time.

        """
        configuration = self.directory / "daemon.json"
        configuration.write_text("{}")  # not what the host's own daemon is to read
        options = [
            f"--config-file={configuration}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.directory / 'exec'}",
            f"--pidfile={self.directory / 'pid'}",
            f"--containerd={self.directory / 'containerd.sock'}",
            f"--host={self.url}",
            # With systemd, Docker would leave the containers' cgroups to it.
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self.directory.name}",
            f"--iptables={str(self._iptables).lower()}",
            "--shutdown-timeout=5",
        ]
        with hold():
            self._daemon = self._launch([self._dockerd, *options, *self._options])
        self._await(self._daemon, self.answers, "dockerd")

    def stop(self) -> None:
        """End the daemon as its service manager would: the containers stop, or live on."""
        if self._daemon is not None:
            self._daemon.end(signal.SIGTERM, STOP_TIMEOUT_S)
            self._daemon = None

    def kill(self) -> None:
        """End the daemon as a crash would; the containers live on."""
        if self._daemon is not None:
            self._daemon.end(signal.SIGKILL)
            self._daemon = None

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def answers(self) -> bool:
        """Return whether the daemon answers on its socket now."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self.socket))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(64)
            except OSError:
                return False

    def close(self) -> None:
        """Remove the daemon, its containers and all that they had made; safe to call again.

        Raises:
            BenchError: something could not be removed.

        """
        with hold():
            undertaker, self._undertaker = self._undertaker, None
            if undertaker is None:
                return
            complaint = _complaint_of(undertaker)
            for child in (self._daemon, self._containerd):
                if child is not None:
                    child.end(signal.SIGKILL)
            self._daemon = self._containerd = None
        if complaint or self.directory.exists():
            cause = complaint or f"exit code {undertaker.returncode}"
            raise BenchError(f"cannot remove dockerd's directory '{self.directory}': {cause}")

    @property
    def _daemon_cgroup(self) -> Path:
        # Not the parent of the containers' cgroups: on hosts with cgroup v2 alone only leaves
        # may hold processes.
        return self.cgroup / "daemon"

    def _build(self) -> None:
        self._prepare()
        self._start_containerd()
        self.start()

    def _prepare(self) -> None:
        with hold():
            try:
                self.directory.mkdir(mode=0o711)
            except OSError as error:
                raise BenchError(
                    f"cannot make dockerd's directory '{self.directory}': {reason(error)}"
                ) from error
            self._undertaker = subprocess.Popen(
                ["sh", "-c", _UNDERTAKER, "sh", self.cgroup, self.netns.name, self.directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"},
                start_new_session=True,  # Ctrl-C reaches only its owner
            )
            try:
                self._daemon_cgroup.mkdir(parents=True)
            except OSError as error:
                raise HostError(f"cannot make cgroup '{self.cgroup}': {reason(error)}") from error
            run_checked([find_tool("ip"), "netns", "add", self.netns.name])
            run_checked([find_tool("ip"), "-n", self.netns.name, "link", "set", "lo", "up"])

    def _start_containerd(self) -> None:
        """Start it once: like a service, it lives on when dockerd ends."""
        configuration = self.directory / "containerd.toml"
        configuration.write_text(_CONTAINERD.format(directory=self.directory))
        with hold():
            argv = [_find("containerd"), f"--config={configuration}"]
            self._containerd = self._launch(argv)
        self._await(self._containerd, (self.directory / "containerd.sock").exists, "containerd")

    def _launch(self, argv: Sequence[str]) -> Child:
        into_cgroup = ["sh", "-c", _IN_CGROUP, "sh", str(self._daemon_cgroup), str(self.log)]
        # Their helpers (iptables, runc) are looked for in PATH.
        path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        return Child([*into_cgroup, *self.enter(argv)], env={"PATH": path})

    def _await(self, child: Child, ready: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            running = child.running()
            if not running or time.monotonic() > deadline:
                cause = f"no answer in {START_TIMEOUT_S:g} s"
                if not running:
                    cause = _complaint(self.log.read_text(errors="replace"), 1)
                raise BenchError(f"cannot start {name}: {cause}")
            time.sleep(0.02)


def _complaint_of(undertaker: subprocess.Popen[bytes]) -> str:
    """Let the undertaker work, wait for it, and return what it complained of.

    A process that sleeps in the kernel cannot be killed, and may keep it waiting for ever. It
    is left to that, and removes everything once the process has ended.
    """
    try:
        _, said = undertaker.communicate(timeout=REMOVE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"its processes have not ended after {REMOVE_TIMEOUT_S:g} s"
    return last_line(said.decode(errors="replace"), undertaker.returncode) if said else ""


def without_advice(said: str) -> str:
    """Return what Docker said of an error, without the line that recommends the manual."""
    return re.sub(r"^See '.*$", "", said, flags=re.MULTILINE)


def _complaint(said: str, exit_code: int) -> str:
    return last_line(without_advice(said), exit_code)


def missing() -> list[str]:
    """Return which of the programs that a daemon needs are not installed."""
    lacking = []
    for name in ("dockerd", "docker", "containerd", "runc", "iptables", "nsenter", "ip"):
        try:
            _find(name)
        except HostError:
            lacking.append(name)
    return lacking


def _find(name: str) -> str:
    """Return the distribution's own program rather than one that somebody put in front of it."""
    for directory in ("/usr/sbin", "/usr/bin"):
        path = Path(directory, name)
        if os.access(path, os.X_OK):
            return str(path)
    try:
        return find_tool(name)
    except HostError as error:
        raise HostError(str(error), "scripts/setup --docker") from None
