"""What users do, on the running kernel: on plain TCP first, then accelerated, and compared.

.venv/bin/python tests/vm/scenarios.py                 with enable's default options
.venv/bin/python tests/vm/scenarios.py --policy all    whatever the programs do
.venv/bin/python tests/vm/scenarios.py -o json         for scripts/vm-matrix

Runs on the machine itself or, by scripts/vm, on another kernel. Exit status 1: a scenario failed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernel import harness
from kernel.harness import Host, Lab, Stream, removed
from kernel.test_back_pressure import read_all, write_all_that_fits
from kernel.test_nginx import fetch, start_nginx

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

MIB = 1 << 20
BODIES = {"nginx 300 KB": 300_000, "nginx 8 MB": 8_000_000}
SPLICED = MIB
NGINX_PORT, SPLICE_PORT = 8080, 9000
# A transfer may take longer than plain TCP's by this much, and is given up after the limit:
# emulated machines are slow and noisy, a stall lasts for ever.
FACTOR, SLACK_S, LIMIT_S = 3, 5, 60
# A sleeping reader may hold this many times what it holds of plain TCP.
ROOM = 4


@dataclass(frozen=True)
class Result:
    """One scenario: what it took on plain TCP and accelerated, and what was wrong."""

    name: str
    plain: float
    accelerated: float | None
    unit: str
    redirected_bytes: int
    problem: str | None


class Place:
    """A client, a proxy and an origin on one bridge, with the programs that serve there."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        _, (self.client, self.proxy, self.origin) = lab.bridge(3)
        files = directory / "files"
        files.mkdir()
        self.bodies: dict[str, tuple[int, str]] = {}
        for name, size in BODIES.items():
            body = os.urandom(size)
            self.bodies[name] = (size, hashlib.sha256(body).hexdigest())
            (files / str(size)).write_bytes(body)
        start_nginx(self.origin, directory / "origin", f"root {files};", "on")
        forward = (
            'proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";'
        )
        start_nginx(self.proxy, directory / "proxy", f"location / {{ {forward} }}", "on")
        self._start(self.origin, "echo", "10.77.1.3")
        self._start(self.proxy, "splice-proxy", "10.77.1.2", "10.77.1.3")

    @staticmethod
    def _start(host: Host, kind: str, address: str, *rest: str) -> None:
        program = Path(__file__).with_name("programs.py")
        host.popen(sys.executable, program, kind, address, str(SPLICE_PORT), *rest)
        harness.wait_until(
            lambda: f":{SPLICE_PORT} " in host.execute("ss", "-tlnH"), 20, f"{kind} listens"
        )

    def connect(self, port: int) -> socket.socket:
        sock = self.client.socket()
        sock.connect(("10.77.1.2", port))
        return sock


def nginx_body(place: Place, name: str) -> float:
    """Fetch a body through nginx in front of nginx, on several connections; return the seconds."""
    size, _ = place.bodies[name]
    socks = [place.connect(NGINX_PORT) for _ in range(3)]
    started = time.monotonic()
    got = place.lab.spawn(fetch_all, socks, str(size)).result(LIMIT_S)
    seconds = time.monotonic() - started
    assert got == {place.bodies[name]}, f"wrong bodies: {got}"
    return seconds


def fetch_all(socks: list[socket.socket], path: str) -> set[tuple[int, str]]:
    return {fetch(sock, path, slow=False) for _ in range(2) for sock in socks}


def splice(place: Place) -> float:
    """Send bytes through a proxy that splices, to a server that returns them."""
    sock = place.connect(SPLICE_PORT)
    started = time.monotonic()
    sender = place.lab.spawn(harness.send_stream, sock, 7, SPLICED, [40_000, 3_000])
    got = harness.receive_stream(sock, 7, SPLICED)
    assert got == SPLICED, f"the stream ended after {got} of {SPLICED} bytes"
    sender.result()
    return time.monotonic() - started


def sleeping_reader(place: Place) -> float:
    """Write to a reader that sleeps; return how many MiB it took until the writer was stopped."""
    listener = place.origin.listen("10.77.1.3")
    writer, reader = place.lab.connect(place.client, listener)
    stream = Stream(11)
    held = write_all_that_fits(writer, stream, 0, 16_384)
    read_all(reader, stream, 0, held)
    more = writer.send(stream.at(held, 1000))
    read_all(reader, stream, held, held + more)
    return held / MIB


def measurements() -> Iterator[tuple[str, str, Callable[[Place], float], Callable[[float], float]]]:
    """Yield name, unit, what to run, and the most that is allowed given plain TCP's figure."""
    for name in BODIES:
        yield name, "s", lambda place, name=name: nginx_body(place, name), in_time
    yield "splicing proxy", "s", splice, in_time
    yield "sleeping reader", "MiB", sleeping_reader, lambda plain: ROOM * plain


def in_time(plain: float) -> float:
    return FACTOR * plain + SLACK_S


def enable(lab: Lab, policy: str) -> None:
    """Accelerate with this policy, or with enable's default."""
    lab.enabled_once = True
    argv = [word for word in lab.enable_arguments() if not str(word).startswith("--policy")]
    lab.cli(*argv, *([] if policy == "default" else [f"--policy={policy}"]))


@contextlib.contextmanager
def place(policy: str | None) -> Iterator[Place]:
    """Return a place, accelerated before its programs connect unless the policy is None."""
    with (
        removed(Lab("accelerated" if policy else "plain")) as lab,
        tempfile.TemporaryDirectory() as directory,
    ):
        Path(directory).chmod(0o755)
        made = Place(lab, Path(directory))
        if policy:
            enable(lab, policy)
        yield made


def run(policy: str) -> list[Result]:
    """Run every scenario on plain TCP and accelerated."""
    results = []
    with place(None) as made:
        plain = {name: measure(made) for name, _, measure, _ in measurements()}
    with place(policy) as made:
        for name, unit, measure, limit in measurements():
            before, value, problem = made.lab.counters()["redirected_bytes"], None, None
            try:
                value = measure(made)
                if value > limit(plain[name]):
                    problem = f"{value:.1f} {unit}, at most {limit(plain[name]):.1f} expected"
            except (AssertionError, OSError) as error:
                problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}"
            redirected = made.lab.counters()["redirected_bytes"] - before
            results.append(Result(name, plain[name], value, unit, redirected, problem))
            made.lab.close_sockets()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", choices=["default", "safe", "all"], default="default")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    if lacking := harness.missing():
        print(f"Error: cannot run the scenarios: no {', '.join(lacking)}", file=sys.stderr)
        return 77
    harness.raise_descriptor_limit()
    # Emulated machines on busy hosts are slow: what takes longer than this has stalled.
    harness.CHILD_TIMEOUT_S, harness.SOCKET_TIMEOUT_S = 180, 30
    results = run(options.policy)
    if options.output == "json":
        document = {"kernel": platform.release(), "policy": options.policy}
        print(json.dumps(document | {"scenarios": [asdict(result) for result in results]}))
    else:
        print(f"kernel {platform.release()}, policy {options.policy}")
        for item in results:
            value = "-" if item.accelerated is None else f"{item.accelerated:.2f} {item.unit}"
            print(
                f"{'FAILED' if item.problem else 'passed'}  {item.name:16} "
                f"plain {item.plain:.2f} {item.unit}, accelerated {value}, "
                f"{item.redirected_bytes} bytes redirected  {item.problem or ''}".rstrip()
            )
    return 1 if any(item.problem for item in results) else 0


if __name__ == "__main__":
    sys.exit(main())
