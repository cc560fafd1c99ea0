from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sockaccel.agent.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop[str]]:
    made: Loop[str] = Loop()
    with made:
        yield made


def fail() -> None:
    raise AssertionError("this was not to be called")


def test_messages_arrive_in_order_and_one_at_a_time(loop: Loop[str]) -> None:
    found = []

    def post() -> None:
        for number in range(2000):
            loop.post(str(number))
        loop.post("end")

    def handle(message: str) -> None:
        found.append(message)
        if message == "end":
            loop.stop()

    thread = threading.Thread(target=post)
    thread.start()
    loop.run(handle)
    thread.join()
    assert found == [*map(str, range(2000)), "end"]


def test_more_messages_than_the_pipe_takes_are_no_fewer(loop: Loop[str]) -> None:
    for _ in range(100_000):  # 64 KiB is what a pipe holds
        loop.post("x")
    loop.post("end")
    count = 0

    def handle(message: str) -> None:
        nonlocal count
        count += 1
        if message == "end":
            loop.stop()

    loop.run(handle)
    assert count == 100_001


def test_times_come_in_their_order(loop: Loop[str]) -> None:
    called = []
    loop.after(0.03, lambda: called.append("third"))
    loop.after(0.0, lambda: called.append("first"))
    loop.after(0.02, lambda: called.append("second"))
    loop.after(0.04, loop.stop)
    loop.run(print)
    assert called == ["first", "second", "third"]


def test_a_time_is_replaced_and_taken_back(loop: Loop[str]) -> None:
    called = []

    def once() -> None:
        called.append("once")

    loop.after(0.01, once)
    loop.after(0.02, once)
    loop.after(0.0, fail)
    loop.cancel(fail, print)  # print was never asked for
    loop.after(0.05, loop.stop)
    loop.run(print)
    assert called == ["once"]


def test_who_is_called_may_take_back_what_is_due_at_the_same_moment() -> None:
    now = 0.0
    loop: Loop[str] = Loop(clock=lambda: now)

    def first() -> None:
        loop.cancel(fail)
        loop.after(0, loop.stop)

    with loop:
        loop.at(1, first)
        loop.at(1, fail)
        now = 1.0
        loop.run(print)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_wakes_it_and_is_called_back(loop: Loop[str], number: signal.Signals) -> None:
    loop.on_signal(number, loop.stop)
    loop.after(10, fail)
    thread = threading.Timer(0.01, os.kill, (os.getpid(), number))
    thread.start()
    loop.run(print)
    thread.join()


def test_signals_that_come_before_it_runs_are_not_lost(loop: Loop[str]) -> None:
    called = []
    loop.on_signal(signal.SIGHUP, lambda: called.append("hup"))
    loop.on_signal(signal.SIGTERM, loop.stop)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    loop.after(10, fail)
    loop.run(print)
    assert called == ["hup"]


def test_afterwards_signals_are_as_they_were_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with Loop() as loop:
        loop.on_signal(signal.SIGTERM, fail)
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
    loop.post("nobody hears it")


def test_a_file_that_can_be_read_calls_back(loop: Loop[str]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = []

        def read() -> None:
            found.append(ours.recv(10))
            loop.stop()

        loop.watch(ours, read)
        theirs.send(b"hello")
        loop.run(print)
        assert found == [b"hello"]


def test_what_is_raised_ends_it(loop: Loop[str]) -> None:
    loop.post("x")
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda _: print(1 // 0))
