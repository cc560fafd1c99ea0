from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from fake_docker import FakeDocker

from sockaccel.agent import link as module
from sockaccel.agent.debounce import Window
from sockaccel.agent.link import Link
from sockaccel.agent.loop import Loop
from sockaccel.agent.watcher import Broken
from sockaccel.scope import docker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sockaccel.agent.watcher import Message

# docker-py does not close a socket that it could not connect, see scope/docker.py.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

NOWHERE = 2**22 + 1  # above the highest pid there can be


class Follower:
    """A link that is driven until something holds."""

    def __init__(self, loop: Loop[Message], url: str, window: Window) -> None:
        self.loop = loop
        self.changes = 0
        self.link = Link(loop, url, window, self._note)

    def _note(self) -> None:
        self.changes += 1

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        def handle(message: Message) -> None:
            if isinstance(message, Broken):
                raise message.error
            self.link.handle(message)
            look()

        def look() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.after(0.01, look)

        def fail() -> None:
            raise AssertionError(f"not within {seconds} s; {self.link.error=}")

        self.loop.after(0, look)
        self.loop.after(seconds, fail)
        self.loop.run(handle)
        self.loop.cancel(look, fail)

    def names(self) -> set[str]:
        return {each.container.name for each in (self.link.members or {}).values()}

    def follow(self) -> None:
        self.link.start()
        self.until(lambda: self.link.connected)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDocker]:
    with FakeDocker(tmp_path / "docker.sock") as fake:
        yield fake


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch, daemon: FakeDocker) -> Iterator[Follower]:
    monkeypatch.setattr(docker, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "PING_S", 0.05)
    loop: Loop[Message] = Loop()
    with loop:
        made = Follower(loop, daemon.url, Window(0.002, 0.02))
        yield made
        made.link.close()


def test_all_containers_are_known_and_then_followed(daemon: FakeDocker, follower: Follower) -> None:
    first = daemon.add("first", NOWHERE)
    daemon.add("exited", 0)
    follower.follow()
    assert follower.names() == {"first"}
    second = daemon.add("second", NOWHERE)
    daemon.event("start", second)
    follower.until(lambda: follower.names() == {"first", "second"})
    daemon.remove(first)
    daemon.event("die", first)
    follower.until(lambda: follower.names() == {"second"})
    daemon.containers[second]["Name"] = "/renamed"
    daemon.event("rename", second)
    follower.until(lambda: follower.names() == {"renamed"})
    daemon.containers[second]["NetworkSettings"]["Networks"] = {"bridge": {}, "more": {}}
    daemon.network_event("connect", second)
    follower.until(
        lambda: follower.link.members[second].container.networks == {"bridge", "more"}  # type: ignore[index]
    )
    assert daemon.asked["containers"] == 1
    assert follower.link.reconnects == 0


def test_a_burst_of_events_is_one_look_at_each_container(
    daemon: FakeDocker, follower: Follower
) -> None:
    both = [daemon.add("first", NOWHERE), daemon.add("second", NOWHERE)]
    follower.follow()
    before, changes = daemon.asked["inspect"], follower.changes
    # In one chunk, so that no pause between them can be taken for the end of the burst.
    events = b"".join(
        b'{"Type":"container","Action":"update","Actor":{"ID":"%b"},"timeNano":1}\n' % each.encode()
        for each in both * 50
    )
    daemon.send(events)
    follower.until(lambda: follower.changes > changes)
    assert daemon.asked["inspect"] - before == 2


def test_a_container_that_joins_a_network_before_it_starts_is_not_asked_for(
    daemon: FakeDocker, follower: Follower
) -> None:
    follower.follow()
    starting = daemon.add("starting", NOWHERE)
    other = daemon.add("other", NOWHERE)
    daemon.network_event("connect", starting)
    daemon.event("start", other)
    follower.until(lambda: follower.names() == {"other"})
    assert daemon.asked["inspect"] == 1
    daemon.event("start", starting)
    daemon.network_event("connect", starting)  # while it is looked at, or after
    follower.until(lambda: follower.names() == {"other", "starting"})


def test_an_event_that_comes_in_pieces_is_one_event(daemon: FakeDocker, follower: Follower) -> None:
    follower.follow()
    identifier = daemon.add("web", NOWHERE)
    text = b'{"Type":"container","Action":"start","Actor":{"ID":"%b"},"timeNano":1}\n'
    line = text % identifier.encode()
    for start in range(0, len(line), 7):
        daemon.send(line[start : start + 7])
    follower.until(lambda: follower.names() == {"web"})


@pytest.mark.parametrize("how", ["close_streams", "abort_streams", "cut_streams"])
def test_after_a_stream_has_ended_what_happened_meanwhile_is_found(
    daemon: FakeDocker, follower: Follower, how: str
) -> None:
    gone = daemon.add("gone", NOWHERE)
    follower.follow()
    daemon.remove(gone)
    daemon.add("new", NOWHERE)  # nobody is told
    getattr(daemon, how)()
    follower.until(lambda: not follower.link.connected)
    assert follower.names() == {"gone"}  # the last picture stays
    assert follower.link.error
    follower.until(lambda: follower.link.connected)
    assert follower.names() == {"new"}
    assert (follower.link.reconnects, follower.link.error) == (1, None)
    late = daemon.add("late", NOWHERE)
    daemon.event("start", late)
    follower.until(lambda: follower.names() == {"new", "late"})


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"message":"boom"}\n',
        b'{"Type":"container","Action":"start","Actor":null,"timeNano":1}\n',
        b"<html>\n",
    ],
)
def test_what_is_no_event_costs_a_subscription_and_not_the_agent(
    daemon: FakeDocker, follower: Follower, garbage: bytes
) -> None:
    follower.follow()
    daemon.add("web", NOWHERE)
    daemon.send(garbage)
    follower.until(lambda: follower.link.reconnects == 1 and follower.names() == {"web"})


def test_a_daemon_that_hangs_is_seen_and_its_containers_stay(
    daemon: FakeDocker, follower: Follower
) -> None:
    daemon.add("web", NOWHERE)
    follower.follow()
    daemon.answering.clear()
    follower.until(lambda: not follower.link.connected)
    assert "timed out" in (follower.link.error or "")
    assert follower.names() == {"web"}
    changes = follower.changes
    attempts = daemon.asked["version"]
    follower.until(lambda: daemon.asked["version"] >= attempts + 3)
    assert follower.changes == changes  # nothing new is to be said
    # Attempts end before there are more: the one that waits now, and one that is just ending.
    assert [each.name for each in threading.enumerate()].count("docker-events") <= 2
    daemon.add("new", NOWHERE)
    daemon.answering.set()
    follower.until(lambda: follower.link.connected)
    assert follower.names() == {"web", "new"}


def test_a_daemon_that_only_answers_errors_is_seen_and_survived(
    daemon: FakeDocker, follower: Follower
) -> None:
    daemon.broken = True
    follower.link.start()
    follower.until(lambda: "500" in (follower.link.error or ""))
    assert (follower.link.connected, follower.link.members) == (False, None)
    daemon.broken = False
    follower.until(lambda: follower.link.connected)
    daemon.broken = True
    follower.until(lambda: not follower.link.connected)  # by its ping
    daemon.broken = False
    follower.until(lambda: follower.link.connected)
    assert follower.link.reconnects == 1


def test_a_daemon_that_is_absent_at_first_is_found_when_it_comes(
    daemon: FakeDocker, follower: Follower
) -> None:
    daemon.die()
    daemon.path.unlink()
    follower.link.start()
    follower.until(lambda: "ENOENT" in (follower.link.error or ""))
    assert follower.link.members is None
    daemon.add("web", NOWHERE)
    daemon.start()
    follower.until(lambda: follower.link.connected)
    assert follower.names() == {"web"}
    assert follower.link.reconnects == 0


def test_a_daemon_that_is_restarted_is_followed_again(
    daemon: FakeDocker, follower: Follower
) -> None:
    daemon.add("old", NOWHERE)
    follower.follow()
    daemon.die()
    follower.until(lambda: "ECONNREFUSED" in (follower.link.error or ""))
    daemon.containers.clear()
    daemon.add("new", NOWHERE)
    daemon.start()
    follower.until(lambda: follower.link.connected)
    assert follower.names() == {"new"}
    assert follower.link.reconnects == 1


def test_a_daemon_that_dies_while_it_describes_a_container_is_asked_again(
    daemon: FakeDocker, follower: Follower
) -> None:
    follower.follow()
    daemon.dies_while_inspecting = True
    web = daemon.add("web", NOWHERE)
    daemon.event("start", web)
    follower.until(lambda: not follower.link.connected)
    assert follower.names() == set()
    daemon.dies_while_inspecting = False
    follower.until(lambda: follower.link.connected and follower.names() == {"web"})


def test_a_container_that_cannot_be_described_does_not_hide_the_others(
    daemon: FakeDocker, follower: Follower
) -> None:
    bad = daemon.add("bad", NOWHERE)
    daemon.add("good", NOWHERE)
    daemon.unreadable.add(bad)
    daemon.listed_only.append("a" * 64)
    follower.follow()
    assert follower.names() == {"good"}
    daemon.unreadable.clear()
    daemon.event("update", bad)
    follower.until(lambda: follower.names() == {"bad", "good"})


def test_all_are_listed_again_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, daemon: FakeDocker, follower: Follower
) -> None:
    monkeypatch.setattr(module, "RESYNC_S", 0.1)
    follower.follow()
    daemon.add("web", NOWHERE)  # nobody is told
    follower.until(lambda: follower.names() == {"web"})
    assert follower.link.reconnects == 0


def test_one_subscription_at_a_time(daemon: FakeDocker, follower: Follower) -> None:
    follower.follow()
    for _ in range(3):
        reconnects = follower.link.reconnects
        daemon.send(b"garbage\n")
        follower.until(lambda: follower.link.reconnects > reconnects)  # noqa: B023
    follower.until(lambda: daemon.subscribed() == 1)
