"""enable and disable: no byte lost on any transition, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import libbpf
from sockaccel.datapath.state import Datapath

from .foreign import Foreign
from .harness import (
    IPV4_B,
    Lab,
    Stream,
    attached,
    bytes_acked,
    nothing_to_read,
    receive,
    run,
    wait_until,
)

if TYPE_CHECKING:
    from .harness import Host, Task

MESSAGES = 23
INACTIVE = 3


def talk(client: socket.socket, server: socket.socket, count: int = MESSAGES) -> int:
    """Exchange messages; return the bytes sent in each direction."""
    for number in range(count):
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(b"%07d" % number)
            assert receive(receiver, 7) == b"%07d" % number
    return 7 * count


# --- Twice, and with other options ----------------------------------------------------------


def test_enable_and_disable_may_be_repeated(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    assert lab.status(expect=INACTIVE)["active"] is False
    lab.disable()
    listener = two.listen(IPV4_B)
    for _ in range(2):
        lab.enable()
        status = lab.status()
        assert status["active"] is True
        again = lab.cli(*lab.enable_arguments())
        assert "already enabled" in again.stdout + again.stderr
        assert lab.status() == status
        client, server = lab.connect(one, listener)
        talk(client, server)
        lab.expect_redirected(client, server)
        lab.close_one(client)
        lab.close_one(server)
        lab.disable()
        assert lab.status(expect=INACTIVE)["active"] is False
        lab.disable()
        assert lab.status(expect=INACTIVE)["active"] is False
        assert not lab.pin_dir.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--max-connections", "77"], "max-connections"),
        (["--ports", "81"], "ports"),
        (["--policy", "safe"], "policy"),
        (["--netns"], "netns"),
    ],
)
def test_a_second_enable_with_other_options_names_the_difference_and_changes_nothing(
    accelerated_lab: Lab, options: list[str], named: str
) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable(hosts=[one, two])
    if options == ["--netns"]:
        options = [f"--netns={lab.host().path}"]
    before = lab.status()
    refused = lab.cli(*lab.enable_arguments([one, two]), *options, expect=1)
    assert "Error: " in refused.stderr
    assert named in refused.stderr
    assert "Hint: " in refused.stderr
    assert lab.status() == before
    client, server = lab.connect(one, two.listen(IPV4_B))
    talk(client, server)
    lab.expect_redirected(client, server)


# --- Live connections (hazards 4 and 5) -----------------------------------------------------


def redirected_connection(
    lab: Lab, one: Host, listener: socket.socket
) -> tuple[socket.socket, socket.socket, int]:
    """Return both ends of a connection seen to be redirected, and what TCP knows of its bytes."""
    client, server = lab.connect(one, listener)
    by_tcp = bytes_acked(client)
    talk(client, server)
    assert bytes_acked(client) == by_tcp, "not redirected in the first place"
    return client, server, by_tcp


def test_disable_puts_live_connections_on_tcp_at_the_next_message(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    client, server, by_tcp = redirected_connection(lab, one, two.listen(IPV4_B))
    lab.disable()
    sent = talk(client, server)
    wait_until(lambda: bytes_acked(client) == by_tcp + sent, what="all bytes by TCP")
    status = lab.status(expect=INACTIVE)
    assert status["active"] is False


@pytest.mark.parametrize("size", [23, 100_000])
def test_disable_loses_nothing_that_was_not_read_yet(accelerated_lab: Lab, size: int) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    ends = [lab.connect(one, two.listen(IPV4_B)) for _ in range(5)]
    stream = Stream(9)
    for client, _ in ends:
        client.sendall(stream.at(0, size))
    lab.expect_redirected(*(client for client, _ in ends))
    lab.disable()
    for client, server in ends:
        client.sendall(stream.at(size, size))
        assert receive(server, 2 * size) == stream.at(0, 2 * size)
        assert nothing_to_read(server)


def pump(sock: socket.socket, seed: int, stop: socket.socket, size: int) -> int:
    """Send a stream until ``stop`` is closed at its other end; return its length."""
    stream, sent = Stream(seed), 0
    while not select.select([stop], [], [], 0)[0]:
        data = stream.at(sent, size)
        sock.sendall(data)
        sent += len(data)
        time.sleep(0.0002)
    sock.shutdown(socket.SHUT_WR)
    return sent


def drain(sock: socket.socket, seed: int) -> int:
    """Check a stream up to its end; return its length."""
    stream, got = Stream(seed), 0
    while data := sock.recv(50_000):
        stream.check(got, data)
        got += len(data)
    return got


def load(
    lab: Lab, ends: list[tuple[socket.socket, socket.socket]]
) -> tuple[socket.socket, list[tuple[Task, Task]]]:
    """Start a stream in each direction of each connection.

    Return a socket to close for the end, and (writer, reader) tasks.
    """
    ours, theirs = socket.socketpair()
    tasks = []
    for number, (client, server) in enumerate(ends):
        size = (100, 16_384, 131_072)[number % 3]
        for seed, sender, receiver in (
            (2 * number, client, server),
            (2 * number + 1, server, client),
        ):
            writer = lab.spawn(pump, sender, seed, theirs, size)
            tasks.append((writer, lab.spawn(drain, receiver, seed)))
    theirs.close()
    return ours, tasks


def check_load(tasks: list[tuple[Task, Task]]) -> None:
    for writer, reader in tasks:
        sent = writer.result()
        assert sent > 0
        assert reader.result() == sent


def test_disable_and_enable_under_load_lose_nothing(lab: Lab) -> None:
    one, two = lab.pair()
    listener = two.listen(IPV4_B)
    before = [lab.connect(one, listener) for _ in range(2)]
    lab.start()
    ends = [lab.connect(one, listener) for _ in range(3)]
    stop, tasks = load(lab, [*ends, *before])
    time.sleep(0.5)
    lab.expect_redirected(*(sock for end in ends for sock in end))
    if lab.accelerated:
        lab.disable()
        for client, _ in ends:
            by_tcp = bytes_acked(client)
            wait_until(lambda: bytes_acked(client) > by_tcp, 5, "bytes by TCP")  # noqa: B023
        lab.enable()
        newer = lab.connect(one, listener)
        talk(*newer)
        lab.expect_redirected(*newer)
        assert lab.connection(ends[0][0]) is None, "an old connection came back"
    time.sleep(0.5)
    stop.close()
    check_load(tasks)


def test_connections_made_while_switching_lose_nothing(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    listener = two.listen(IPV4_B)
    for command in (lab.enable_arguments(), ["disable"]) * 2:
        lab.enabled_once = True
        switching = subprocess.Popen(
            lab.argv(*command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while switching.poll() is None:
            client, server = lab.connect(one, listener)
            talk(client, server, 5)
            client.sendall(b"last")
            lab.close_one(client)
            assert receive(server, 10) == b"last"
            lab.close_one(server)
        assert switching.stderr
        with switching.stderr:
            assert switching.returncode == 0, switching.stderr.read()


def test_disable_waits_for_the_last_connection(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    client, server = lab.connect(one, two.listen(IPV4_B))
    talk(client, server)
    start = time.monotonic()
    waited = lab.cli("disable", "--wait", "1", expect=None)
    assert time.monotonic() - start >= 1
    assert waited.returncode in (0, 1)
    assert not lab.pin_dir.exists()
    talk(client, server)


@pytest.mark.parametrize("missing", ["config", "sock_ops_link", "sk_msg", "connections"])
def test_disable_works_when_pins_were_removed_by_hand(accelerated_lab: Lab, missing: str) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    client, server, by_tcp = redirected_connection(lab, one, two.listen(IPV4_B))
    (lab.pin_dir / missing).unlink()
    lab.disable()
    sent = talk(client, server)
    wait_until(lambda: bytes_acked(client) == by_tcp + sent, what="all bytes by TCP")


def test_enable_again_replaces_what_has_lost_its_link(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    listener = two.listen(IPV4_B)
    old, old_server, by_tcp = redirected_connection(lab, one, listener)
    (lab.pin_dir / "sock_ops_link").unlink()
    assert lab.status(expect=INACTIVE)["active"] is False
    lab.enable()
    sent = talk(old, old_server)
    wait_until(lambda: bytes_acked(old) == by_tcp + sent, what="the old one by TCP")
    new, new_server = lab.connect(one, listener)
    talk(new, new_server)
    lab.expect_redirected(new, new_server)


def test_the_same_enable_again_brings_the_scope_up_to_date(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enable()
    stale = lab.status()["namespaces"]
    with Datapath(lab.pin_dir) as datapath:
        for cookie in datapath.namespaces():
            libbpf.delete(datapath.fd("scope"), cookie.to_bytes(8, "little"))
    assert (stale, lab.status()["namespaces"]) == (2, 0)
    lab.enable()
    assert lab.status()["namespaces"] == 2
    client, server = lab.connect(one, two.listen(IPV4_B))
    talk(client, server)
    lab.expect_redirected(client, server)


# --- A killed loader ------------------------------------------------------------------------


@pytest.mark.parametrize("delay_ms", [100, 200, 300, 400, 500])
def test_the_next_enable_waits_for_the_child_of_a_killed_one(
    accelerated_lab: Lab, delay_ms: int
) -> None:
    lab = accelerated_lab
    lab.host()
    lab.enabled_once = True
    loader = subprocess.Popen(
        lab.argv(*lab.enable_arguments()), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(delay_ms / 1000)
    loader.kill()  # and not what it has started
    loader.wait()
    lab.enable()


@pytest.mark.parametrize("delay_ms", [10, 60, 120, 200, 300, 400, 500, 650, 800])
def test_a_loader_that_was_killed_leaves_nothing_in_the_way(
    accelerated_lab: Lab, delay_ms: int
) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    lab.enabled_once = True
    loader = subprocess.Popen(
        lab.argv(*lab.enable_arguments()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(delay_ms / 1000)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(loader.pid, signal.SIGKILL)
    loader.wait()
    listener = two.listen(IPV4_B)
    talk(*lab.connect(one, listener))
    assert lab.cli("status", expect=None).returncode in (0, INACTIVE)
    lab.enable()
    client, server = lab.connect(one, listener)
    talk(client, server)
    lab.expect_redirected(client, server)


def test_disable_clears_what_a_killed_loader_left(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    lab.host()
    lab.enabled_once = True
    for delay_ms in range(100, 900, 100):
        loader = subprocess.Popen(
            lab.argv(*lab.enable_arguments()),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(delay_ms / 1000)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(loader.pid, signal.SIGKILL)
        loader.wait()
        lab.disable()
        assert not lab.left_behind(), f"killed after {delay_ms} ms"


# --- Another owner's sock_ops program on the same cgroup ------------------------------------


@pytest.mark.parametrize("first", ["the other program", "sockaccel"])
def test_another_sock_ops_program_stays_and_still_works(lab: Lab, first: str) -> None:
    one, two = lab.pair()
    listener = two.listen(IPV4_B)
    if first == "sockaccel":
        lab.start()
    with Foreign(lab.cgroup) as foreign:
        if first != "sockaccel":
            lab.start()

        def works(*, accelerated: bool) -> None:
            before = foreign.counts()
            client, server = lab.connect(one, listener)
            talk(client, server)
            if accelerated:
                lab.expect_redirected(client, server)
            lab.close_one(client)
            lab.close_one(server)
            wait_until(lambda: foreign.counts().closed >= before.closed + 2, what="both CLOSE")
            after = foreign.counts()
            assert after.established == before.established + 2
            # Its own callbacks come, and the flags it has set are still set at the end.
            assert after.round_trips > before.round_trips
            assert after.flags_lost == 0

        works(accelerated=True)
        if lab.accelerated:
            lab.disable()
            assert [item["id"] for item in attached(lab.cgroup)] == [foreign.program_id]
            works(accelerated=False)
            lab.enable()
            assert foreign.program_id in [item["id"] for item in attached(lab.cgroup)]
            works(accelerated=True)
        assert run("bpftool", "prog", "show", "id", str(foreign.program_id))


def test_a_namespace_that_goes_away_takes_nothing_with_it(accelerated_lab: Lab) -> None:
    lab = accelerated_lab
    one, two = lab.pair()
    gone: Host = lab.host()
    lab.enable()
    lab.hosts.remove(gone)
    gone.close()
    client, server = lab.connect(one, two.listen(IPV4_B))
    talk(client, server)
    lab.expect_redirected(client, server)
    lab.status()


def reset_many(address: tuple[str, int], seconds: float) -> int:
    """Connect and reset, again and again, on the first processor; return how often."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Without waiting: the reset is to overtake what establishes the server.
            client.setblocking(number % 2 == 0)
            with contextlib.suppress(BlockingIOError):
                client.connect(address)
            number += 1
    return number


def accept_many(listener: socket.socket, seconds: float) -> int:
    """Accept and close, again and again; return how often."""
    listener.settimeout(0.2)
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError, ConnectionError):
            listener.accept()[0].close()
            number += 1
    return number


def test_clients_that_reset_at_once_are_not_waited_for(accelerated_lab: Lab) -> None:
    """Some are gone before their server is established, and nobody will ask for its address."""
    lab = accelerated_lab
    one, two = lab.pair()
    # The last packet of a handshake is worked off by the other processor, so a reset can be first.
    steer = "for file in /sys/class/net/*/queues/rx-0/rps_cpus; do echo 2 >$file; done"
    run("ip", "netns", "exec", two.name, "sh", "-c", steer)
    lab.start()
    listener = two.listen(IPV4_B, backlog=4096)
    server = two.spawn(accept_many, listener, 4.0)
    assert one.spawn(reset_many, listener.getsockname(), 3.0).result() > 0
    assert server.result() > 0
    listener.close()
    wait_until(lambda: lab.dump()["entries"] == 0, 5, "no entry")
    with libbpf.fd(libbpf.open_pin(lab.pin_dir / "peers")) as peers:
        assert len(list(libbpf.keys(peers, 16))) == 0
