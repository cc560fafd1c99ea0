"""Sockets in several hands: dup, fork and SCM_RIGHTS."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from equivalence.stage import LIMIT_S, NEVER_S, Stage, outcome
from equivalence.table import IPV4, scenario

from .stream import pattern


@scenario("dup(): both descriptors are one socket; closing one ends nothing")
def duplicated(s: Stage) -> None:
    client, server = s.pair()
    twin = s.lab.track(client.dup())
    s.ready(twin)
    s.note("by the twin", [s.send(twin, b"twin"), s.recv(server, 10)])
    s.lab.close_one(client)
    s.note("not the end", s.recv(server, 10, within=0.1))
    s.note("still the twin", [s.send(twin, b"twin"), s.recv(server, 10)])
    s.note("and back", [s.send(server, b"back"), s.recv(twin, 10)])
    s.lab.close_one(twin)
    s.note("the end", s.recv(server, 10))


@scenario("shutdown() of one descriptor is the end for all")
def shut_twin(s: Stage) -> None:
    client, server = s.pair()
    twin = s.ready(s.lab.track(client.dup()))
    twin.shutdown(socket.SHUT_RDWR)
    s.note("the end", s.recv(server, 10))
    s.note("the other reads", s.recv(client, 10))


def speak(sock: socket.socket, word: bytes) -> object:
    sock.settimeout(LIMIT_S)
    sent = outcome(sock.send, word)
    return [sent, outcome(sock.recv, 100)]


@scenario("fork(): the child uses the connection, the parent goes on with it")
def forked(s: Stage) -> None:
    client, server = s.pair()
    child = s.process(speak, client, b"from the child")
    s.note("child's word", s.recv(server, 100))
    s.note("answer", s.send(server, b"answer"))
    s.note("child", child.result())
    s.ready(client)  # O_NONBLOCK belongs to the file that both share
    s.note("the child's end is not the end", s.recv(server, 10, within=0.1))
    s.talk(client, server)


@scenario("fork(): the child writes, the parent has closed", families=IPV4)
def orphaned(s: Stage) -> None:
    client, server = s.pair()
    child = s.process(speak, client, b"from the child")
    s.lab.close_one(client)
    s.note("child's word", s.recv(server, 100))
    s.note("answer", s.send(server, b"answer"))
    s.note("child", child.result())
    s.note("the end", s.recv(server, 10))


@scenario("Parent and child write in turn, parent and child read in turn", families=IPV4)
def in_turn(s: Stage) -> None:
    client, server = s.pair()
    for number in range(4):
        word = b"word %d" % number
        if number % 2:
            child = s.process(speak, client, word)
        else:
            s.send(client, word)
        s.note(f"word {number}", s.recv(server, 100))
        if number % 2:
            s.send(server, b"ok")
            s.note(f"child {number}", child.result())
            s.ready(client)


@scenario("SCM_RIGHTS: the connection is passed on with bytes unread, and used there")
def passed_on(s: Stage) -> None:
    client, server = s.pair()
    s.send(client, b"unread, ")
    s.arrived(server, 8)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [server.fileno()])
        s.lab.close_one(server)
        s.note("sent meanwhile", s.send(client, b"under way"))
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
    again = s.ready(s.lab.track(socket.socket(fileno=descriptors[0])))
    s.note("arrived", s.read(again, 17))
    s.talk(client, again)
    s.lab.close_one(again)
    s.note("the end", s.recv(client, 1))


def take_over(channel: socket.socket) -> object:
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=descriptors[0]) as sock:
        return speak(sock, b"from the other process")


@scenario("SCM_RIGHTS: another process goes on with the connection", families=IPV4)
def handed_over(s: Stage) -> None:
    client, server = s.pair()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        other = s.process(take_over, theirs)
        socket.send_fds(ours, [b"x"], [client.fileno()])
        s.lab.close_one(client)
        s.note("word", s.recv(server, 100))
        s.note("answer", s.send(server, b"answer"))
        s.note("other", other.result())
    s.note("the end", s.recv(server, 10))


@scenario("exec(): the connection as standard input and output", families=IPV4)
def executed(s: Stage) -> None:
    client, server = s.pair()
    # As a server that inetd or systemd starts for one connection.
    server.setblocking(True)
    program = "import sys; sys.stdout.write(sys.stdin.readline().upper())"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=server.fileno(), stdout=server.fileno()
    )
    s.lab.close_one(server)
    s.note("sent", s.send(client, b"a line\n"))
    s.note("answer", s.read(client, 7))
    s.note("exit", child.wait(30))
    s.note("the end", s.recv(client, 1))


@scenario("A second thread closes the socket while nothing is under way", families=IPV4)
def closed_elsewhere(s: Stage) -> None:
    client, server = s.pair()
    s.thread(s.lab.close_one, client).result()
    s.note("the end", s.recv(server, 1))
    s.note("server's descriptor lives", os.fstat(server.fileno()).st_size)


@scenario("An inherited descriptor keeps the connection alive until it is closed", families=IPV4)
def kept_alive(s: Stage) -> None:
    client, server = s.pair()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeper = s.process(keep, client, theirs)
        s.lab.close_one(client)
        s.note("not the end", s.recv(server, 1, within=NEVER_S))
        data = pattern(100_000)
        s.note("accepted", s.write(server, data))
        ours.send(b"x")
        s.note("kept", keeper.result())


def keep(sock: socket.socket, channel: socket.socket) -> int:
    channel.recv(1)
    sock.settimeout(LIMIT_S)
    count = 0
    while count < 100_000:
        count += len(sock.recv(1 << 16))
    return count
