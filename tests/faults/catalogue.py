"""The faults: each is done so many times while checked traffic runs."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.harness import BPFFS, Lab, wait_until

from sockaccel.datapath.layout import Counter, Reason
from sockaccel.datapath.state import Datapath

from . import killing
from .owner import Owner
from .scene import LEFT_S, Outcome, Scene, second_pin_dir

if TYPE_CHECKING:
    from collections.abc import Callable

INACTIVE = 3


def reason_count(lab: Lab, reason: Reason) -> int:
    """Return how many connections were kept on TCP for this reason."""
    with Datapath(lab.pin_dir) as datapath:
        return datapath.counters()[Counter.REASON + reason]


# --- Switching ------------------------------------------------------------------------------


def switch(scene: Scene, number: int) -> None:
    """Enable, wait until bytes are redirected, disable."""
    scene.enable()
    scene.await_redirection()
    if number % 10 == 0:
        time.sleep(0.5)
    scene.disable()


def cycles(scene: Scene, count: int) -> None:
    """Enable and disable, again and again."""
    scene.background()
    scene.repeat(switch, count)


# --- A killed loader ------------------------------------------------------------------------


def recover(scene: Scene, point: killing.Point, code: int, failures: list[str]) -> None:
    """After a kill: status answers, enable works, disable works, nothing is left."""
    scene.doing = f"{point}, exit code {code}"
    answer = scene.lab.cli("status", expect=None)
    if answer.returncode not in (0, INACTIVE):
        failures.append(f"{point}: status says {answer.returncode}: {answer.stderr.strip()}")
    scene.enable()
    scene.await_redirection()
    scene.disable()
    name = scene.lab.pin_dir.name
    left = [path.name for path in BPFFS.iterdir() if path.name in (name, f"{name}_staging")]
    if left:
        failures.append(f"{point} (exit {code}): pins are left: {left}")


def kill_enable(scene: Scene, point: killing.Point, failures: list[str]) -> None:
    """Kill `enable` at this step, then recover."""
    argv = scene.lab.argv(*scene.scope)
    recover(scene, point, killing.run_and_kill(argv, point), failures)


def kill_disable(scene: Scene, point: killing.Point, failures: list[str]) -> None:
    """Kill `disable` at this step, then recover."""
    scene.enable()
    argv = scene.lab.argv("disable")
    recover(scene, point, killing.run_and_kill(argv, point), failures)


def killed_loader(scene: Scene, count: int) -> None:
    """Kill enable and disable at each of their steps, and by time; spread over `count` points."""
    lab = scene.lab
    lab.enabled_once = True
    scene.background()
    enable = lab.argv(*scene.scope)
    points: list[tuple[Callable[[Scene, killing.Point, list[str]], None], killing.Point]] = []
    for whom in ("command", "compiler"):
        points += [(kill_enable, point) for point in killing.steps(enable, whom)]
        if whom == "command":
            points += [(kill_disable, point) for point in killing.steps(lab.argv("disable"), whom)]
        else:
            lab.disable()
    start = time.monotonic()
    scene.enable()
    took_ms = int(1000 * (time.monotonic() - start))
    scene.disable()
    # As many again by time, over a little more than a loader takes.
    step_ms = max(1, took_ms * 5 // 4 * 2 // len(points))
    for whom in ("command", "both"):
        points += [(kill_enable, point) for point in killing.times(took_ms * 5 // 4, step_ms, whom)]
    chosen = points
    if count < len(points):
        chosen = [points[number * len(points) // count] for number in range(count)]

    def kill_next(scene: Scene, number: int) -> None:
        kill, point = chosen[number]
        kill(scene, point, scene.failures)

    scene.repeat(kill_next, len(chosen))


# --- The map and the scope ------------------------------------------------------------------


def fill_the_map(scene: Scene, number: int) -> None:
    """Open more connections than the map has room for, close them, and use the room again."""
    room = 10
    scene.enable("--max-connections", str(room))
    crowd = scene.start(connections=5 * room, think=50_000, blocking=20)
    wait_until(lambda: reason_count(scene.lab, Reason.MAP_FULL) > 0, 10, "a full map")
    assert scene.entries() <= 2 * room
    scene.finish(crowd)
    wait_until(lambda: scene.entries() == 0, LEFT_S, "an empty map")
    before = scene.redirected_now()
    few = scene.start(connections=room // 2, think=5_000, total=10 * room, bytes=100_000)
    scene.finish(few, 30)
    assert scene.redirected_now() > before, "the room was not used again"
    scene.disable()


def map_full(scene: Scene, count: int) -> None:
    """Fill the map and empty it."""
    scene.repeat(fill_the_map, count)


CHANGES = 10


def move_the_scope(scene: Scene, number: int) -> None:
    """Enable, and take one of two namespaces out of the scope and in again."""
    lab = scene.lab
    if len(lab.hosts) < 3:
        lab.host()
    elsewhere = lab.hosts[2]
    with tempfile.TemporaryDirectory(prefix="sockaccel-") as directory:
        # The path stays as it was given; the namespace behind it changes.
        link = Path(directory) / "namespace"
        link.symlink_to(scene.client.path)
        arguments: list[str | Path] = [
            "enable",
            "--cgroup",
            lab.cgroup,
            "--policy=all",
            "--netns",
            link,
        ]
        arguments += ["--netns", scene.server.path]
        lab.enabled_once = True
        lab.cli(*arguments)
        for change in range(CHANGES):
            if change % 2 == 0:
                scene.await_redirection()
            link.unlink()
            link.symlink_to((elsewhere if change % 2 == 0 else scene.client).path)
            said = lab.cli(*arguments).stdout
            assert "1 added, 1 gone" in said, said
        scene.await_redirection()
        scene.disable()


def scope(scene: Scene, count: int) -> None:
    """Change the scope under load."""
    scene.background()
    scene.repeat(move_the_scope, max(1, count // CHANGES), each=CHANGES)


# --- Many connections -----------------------------------------------------------------------


def many(scene: Scene, count: int) -> None:
    """Hold so many connections open, enabled and disabled meanwhile, then end them all."""
    scene.client.sysctl("net.ipv4.ip_local_port_range", "2000 65000")
    scene.enable("--max-connections", str(count + 1000))
    crowd = scene.start(connections=count, think=max(50_000, 300 * count))
    wait_until(lambda: crowd.started >= count, 60, f"{count} connections")
    wait_until(lambda: scene.entries() >= 2 * count, 30, f"{2 * count} entries")
    time.sleep(min(10, count / 500))
    scene.finish(crowd)
    wait_until(lambda: scene.entries() == 0, LEFT_S, "an empty map")
    crowd = scene.start(connections=count, think=max(50_000, 300 * count))
    wait_until(lambda: crowd.started >= count, 60, f"{count} connections")
    scene.disable()
    time.sleep(1)
    scene.finish(crowd)
    scene.count = 2 * count


def short(scene: Scene, count: int) -> None:
    """Open, use and close so many connections, one after the other on many at once."""
    scene.client.sysctl("net.ipv4.ip_local_port_range", "2000 65000")
    scene.enable()
    crowd = scene.start(connections=64, total=count, bytes=20_000, think=0, blocking=30)
    scene.finish(crowd, 60 + count / 100)
    wait_until(lambda: scene.entries() == 0, LEFT_S, "an empty map")
    scene.disable()
    scene.count = count


# --- Namespaces, instances, owners ----------------------------------------------------------


def delete_namespaces(scene: Scene, number: int) -> None:
    """Delete two namespaces with connections open: every second time their processes end first."""
    lab = scene.lab
    scene.enable()
    victims = lab.pair()
    traffic = scene.start(victims, connections=20, think=5_000, blocking=30)
    scene.await_redirection()
    for host in victims:
        lab.hosts.remove(host)
    if number % 2:
        scene.drop(traffic)
    for host in victims:
        host.close()
    if number % 2 == 0:
        # The names are gone, the namespaces last as long as their processes.
        time.sleep(0.3)
        scene.finish(traffic)
    scene.disable()


def namespaces(scene: Scene, count: int) -> None:
    """Delete namespaces with connections open."""
    scene.background()
    scene.repeat(delete_namespaces, count)


def two_instances(scene: Scene, number: int) -> None:
    """Enable twice, with two pin directories, and disable in either order."""
    lab = scene.lab
    second = second_pin_dir(lab.pin_dir)
    both = [lab.pin_dir, second]
    try:
        for pin_dir in both:
            lab.enabled_once = True
            lab.cli("--pin-dir", pin_dir, *scene.scope)
        # The first attached gets every socket; the second finds it taken, and leaves it.
        scene.await_redirection(both[0])
        first, last = both if number % 2 else reversed(both)
        scene.redirected += scene.redirected_now(both[0])
        lab.cli("--pin-dir", first, "disable")
        if last == second:
            scene.await_redirection(second)
            scene.redirected += scene.redirected_now(second)
        assert not first.exists()
        assert last.exists()
    finally:
        for pin_dir in both:
            lab.cli("--pin-dir", pin_dir, "disable")


def second_instance(scene: Scene, count: int) -> None:
    """Run a second instance with its own pin directory over the same sockets."""
    scene.background()
    scene.repeat(two_instances, count)


def another_owner(scene: Scene, number: int) -> None:
    """Let another sk_msg program own the sockets: it came first, or it comes second."""
    lab = scene.lab
    with contextlib.ExitStack() as stack:
        if number % 2 == 0:
            stack.enter_context(Owner(lab.cgroup))
        scene.enable()
        if number % 2:
            stack.enter_context(Owner(lab.cgroup))
            scene.await_redirection()
        else:
            wait_until(
                lambda: reason_count(lab, Reason.FOREIGN_OWNER) > 0, 10, "a socket that was taken"
            )
        time.sleep(0.2)
    # Sockets that come now are ours again.
    scene.await_redirection()
    scene.disable()


def other_owner(scene: Scene, count: int) -> None:
    """Share the sockets with another owner."""
    scene.background()
    scene.repeat(another_owner, count)


# --- All at once ----------------------------------------------------------------------------


def soak(scene: Scene, seconds: int) -> None:
    """Do whatever can be done under load, in random order, for so long."""
    chance = random.Random(1)
    # With readers that sleep for seconds now and then.
    scene.background(nap=5_000_000)
    scene.client.sysctl("net.ipv4.ip_local_port_range", "2000 65000")

    def burst(scene: Scene, _: int) -> None:
        scene.enable()
        crowd = scene.start(connections=32, total=1000, bytes=20_000, think=0, blocking=30)
        scene.finish(crowd, 60)
        scene.disable()

    def killed(scene: Scene, _: int) -> None:
        point = killing.Point(chance.choice(("command", "both")), "ms", chance.randrange(1, 900))
        chance.choice((kill_enable, kill_disable))(scene, point, scene.failures)

    def rest(scene: Scene, _: int) -> None:
        scene.enable()
        time.sleep(chance.uniform(1, 5))
        scene.disable()

    steps = [
        switch,
        switch,
        rest,
        killed,
        killed,
        burst,
        move_the_scope,
        delete_namespaces,
        two_instances,
        another_owner,
    ]
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        step = chance.choice(steps)
        scene.doing = step.__name__
        step(scene, scene.count)
        scene.count = int(time.monotonic() - start)


@dataclass(frozen=True)
class Fault:
    """A fault, how often it is done, and how often in CI."""

    do: Callable[[Scene, int], None]
    unit: str
    often: int
    short: int


MIXED = "soak"
FAULTS = {
    "cycles": Fault(cycles, "enable/disable cycles", 1000, 6),
    "killed-loader": Fault(killed_loader, "kills of enable and disable", 1000, 12),
    "map-full": Fault(map_full, "times the map filled and emptied", 50, 1),
    "scope": Fault(scope, "changes of the scope", 500, CHANGES),
    "many": Fault(many, "concurrent connections", 10_000, 1000),
    "short": Fault(short, "short connections", 100_000, 5000),
    "namespaces": Fault(namespaces, "pairs of namespaces deleted", 100, 2),
    "second-instance": Fault(second_instance, "second instances", 100, 2),
    "other-owner": Fault(other_owner, "other owners", 100, 2),
    MIXED: Fault(soak, "seconds of all that", 1800, 15),
}


def run_fault(name: str, amount: int, seconds: float | None = None) -> Outcome:
    """Do one fault in a scene of its own, for so many seconds at most."""
    fault = FAULTS[name]
    outcome = Outcome(name, fault.unit)
    start = time.monotonic()
    scene = Scene(seconds)
    try:
        with scene:
            fault.do(scene, amount)
    except Exception as error:  # the report must come whatever happens
        outcome.failures.append(f"{type(error).__name__} at {scene.count} {scene.doing}: {error}")
    outcome.count = scene.count
    outcome.seconds = time.monotonic() - start
    outcome.report, outcome.left = scene.report, scene.left
    outcome.redirected = scene.redirected
    outcome.failures += scene.failures
    if not outcome.redirected:
        outcome.failures.append("nothing was redirected")
    return outcome
