"""--policy safe: what a program does decides, and what nobody knows of it is learned."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sockaccel.datapath import libbpf, programs
from sockaccel.datapath.layout import Trait
from sockaccel.datapath.state import Datapath

from .harness import Host, Lab, receive, run, wait_until

PORT = 7000
TO_EARN = 3
"""Connections; CONNECTIONS_TO_EARN in bpf/policy.h."""
ROUNDS, SIZE = 10, 1000

# Each is a program of its own: a policy knows programs, not sockets.
ECHO = {
    "asyncio": """
        import asyncio
        async def echo(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()
        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", PORT)
            await server.serve_forever()
        asyncio.run(main())
        """,
    "splice": """
        import os, socket, threading
        def echo(sock):
            source, sink = os.pipe()
            while count := os.splice(sock.fileno(), sink, 65536):
                while count:
                    count -= os.splice(source, sock.fileno(), count)
            sock.close()
        listener = socket.create_server(("127.0.0.1", PORT))
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()
        """,
    "recv, then splice": """
        import os, socket, threading
        def echo(sock):
            source, sink = os.pipe()
            sock.settimeout(10)
            sock.sendall(sock.recv(65536))
            sock.setblocking(True)
            while count := os.splice(sock.fileno(), sink, 65536):
                while count:
                    count -= os.splice(source, sock.fileno(), count)
            sock.close()
        listener = socket.create_server(("127.0.0.1", PORT))
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()
        """,
    "blocking": """
        import socket, threading
        def echo(sock):
            while data := sock.recv(65536):
                sock.sendall(data)
            sock.close()
        listener = socket.create_server(("127.0.0.1", PORT))
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()
        """,
    "zerocopy after reading": """
        import socket, threading
        def echo(sock):
            sock.settimeout(10)
            got = 0
            while data := sock.recv(65536):
                got += len(data)
                if got == ROUNDS * SIZE:
                    sock.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
                sock.sendall(data)
            sock.close()
        listener = socket.create_server(("127.0.0.1", PORT))
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()
        """,
    "waitall": """
        import select, socket, threading
        def echo(sock):
            sock.setblocking(False)
            while True:
                select.select([sock], [], [])
                try:
                    data = sock.recv(1000, socket.MSG_WAITALL)
                except BlockingIOError:
                    continue
                if not data:
                    break
                sock.sendall(data)
            sock.close()
        listener = socket.create_server(("127.0.0.1", PORT))
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],)).start()
        """,
}
# Connects as often as it is told, one connection after the other: each is over at both ends, and
# judged, before the next begins.
CLIENT = """
    import asyncio, sys
    async def main():
        for _ in range(int(sys.argv[1])):
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            for number in range(ROUNDS):
                data = b"%03d " % number * (SIZE // 4)
                writer.write(data)
                assert await asyncio.wait_for(reader.readexactly(SIZE), 10) == data
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
    asyncio.run(main())
    """


@pytest.fixture
def host(accelerated_lab: Lab) -> Host:
    return accelerated_lab.host()


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / f"{name.replace(', ', '_')}.py"
    constants = f"PORT, ROUNDS, SIZE = {PORT}, {ROUNDS}, {SIZE}\n"
    path.write_text(constants + textwrap.dedent(text))
    return path


def serve(host: Host, path: Path) -> None:
    host.popen(sys.executable, path)
    wait_until(lambda: is_listening(host), what=f"{path.name} listens")


def is_listening(host: Host) -> bool:
    return f":{PORT} " in host.execute("ss", "-Hltn")


def connect(host: Host, path: Path, times: int) -> None:
    """Make `times` connections, one after the other, by a process of its own."""
    process = host.popen(sys.executable, path, str(times))
    assert process.wait(30) == 0


def safe(lab: Lab, *options: str) -> None:
    lab.cli(*[word for word in lab.enable_arguments() if word != "--policy=all"], *options)
    lab.enabled_once = True


def learned(lab: Lab) -> dict[str, tuple[str | None, int]]:
    """Return, by side, why the connections of the one program stay on TCP, and its credit."""
    return {each["side"]: (each["reason"], each["connections"]) for each in lab.status()["learned"]}


def settled(lab: Lab, **expected: Any) -> dict[str, Any]:
    """Return the counters once they are as expected; closing sockets are counted as they go."""

    def look() -> dict[str, Any] | None:
        counters = lab.counters()
        return counters if expected.items() <= counters.items() else None

    found: dict[str, Any] = wait_until(look, what=f"{expected}; it is {lab.counters()}")
    return found


def test_a_program_that_reads_by_recv_earns_it(
    accelerated_lab: Lab, host: Host, tmp_path: Path
) -> None:
    lab, client = accelerated_lab, write(tmp_path, "client", CLIENT)
    safe(lab)
    serve(host, write(tmp_path, "server", ECHO["asyncio"]))
    connect(host, client, TO_EARN)
    bytes_each = 2 * ROUNDS * SIZE
    counters = settled(lab, tcp_bytes=TO_EARN * bytes_each)
    assert counters["redirected_bytes"] == counters["connections_paired"] == 0
    assert counters["fallbacks"] == {"policy-unknown": TO_EARN}
    assert learned(lab) == {"client": (None, TO_EARN), "server": (None, TO_EARN)}
    connect(host, client, 2)  # a new process, but the same program with the same arguments?
    # No: its arguments are others, and they belong to what a program is.
    counters = settled(lab, tcp_bytes=(TO_EARN + 2) * bytes_each)
    assert counters["fallbacks"] == {"policy-unknown": TO_EARN + 2}
    connect(host, client, TO_EARN)
    counters = settled(lab, redirected_bytes=TO_EARN * bytes_each)
    assert counters["connections_paired"] == TO_EARN
    assert counters["tcp_bytes"] == (TO_EARN + 2) * bytes_each


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("splice", "policy-splice"),
        ("recv, then splice", "policy-splice"),
        ("blocking", "policy-blocking"),
        ("waitall", "policy-unusual"),
        ("zerocopy after reading", "policy-unusual"),
    ],
)
def test_a_program_that_reads_otherwise_works_and_stays_on_tcp(
    accelerated_lab: Lab, host: Host, tmp_path: Path, server: str, reason: str
) -> None:
    lab, client = accelerated_lab, write(tmp_path, "client", CLIENT)
    safe(lab)
    serve(host, write(tmp_path, server, ECHO[server]))
    connect(host, client, TO_EARN + 4)
    counters = settled(lab, tcp_bytes=(TO_EARN + 4) * 2 * ROUNDS * SIZE)
    assert counters["redirected_bytes"] == counters["connections_paired"] == 0
    # The first was not known when it came.
    assert counters["fallbacks"] == {"policy-unknown": 1, reason: TO_EARN + 3}
    assert learned(lab) == {"client": (None, TO_EARN + 4), "server": (reason, 0)}


def test_a_connection_that_lasts_counts_before_it_ends(
    accelerated_lab: Lab, host: Host, tmp_path: Path
) -> None:
    lab = accelerated_lab
    safe(lab)
    serve(host, write(tmp_path, "server", ECHO["asyncio"]))
    socks = [host.socket() for _ in range(TO_EARN)]
    for sock in socks:
        sock.connect(("127.0.0.1", PORT))
        for number in range(64):
            sock.sendall(b"%4d" % number)
            assert receive(sock, 4) == b"%4d" % number
    assert learned(lab)["server"] == (None, TO_EARN)


def test_what_is_kept_on_tcp_is_shown_with_its_reason(
    accelerated_lab: Lab, host: Host, tmp_path: Path
) -> None:
    lab = accelerated_lab
    safe(lab)
    serve(host, write(tmp_path, "server", ECHO["asyncio"]))
    sock = host.socket()
    sock.connect(("127.0.0.1", PORT))
    sock.sendall(b"word")
    assert receive(sock, 4) == b"word"
    connection = lab.connection(sock)
    assert connection
    assert connection["state"] == "tcp"
    for end in (connection["client"], connection["server"]):
        assert (end["reason"], end["tcp_bytes"]) == ("policy-unknown", 4)
        assert (end["redirected_bytes"], end["local"] != end["remote"]) == (0, True)
    assert lab.dump()["entries"] == 0
    sock.close()
    wait_until(lambda: not lab.dump()["connections"])


@pytest.mark.parametrize("before", [True, False], ids=["listens before", "listens after"])
def test_the_users_word_is_above_what_is_known(
    accelerated_lab: Lab, host: Host, tmp_path: Path, before: bool
) -> None:
    lab = accelerated_lab
    name = Path(sys.executable).resolve().name
    path = write(tmp_path, "server", ECHO["blocking"])
    if before:
        serve(host, path)
    safe(lab, f"--accelerate={name}")
    if not before:
        serve(host, path)
    connect(host, write(tmp_path, "client", CLIENT), 1)
    counters = settled(lab, redirected_bytes=2 * ROUNDS * SIZE)
    assert counters["fallbacks"] == {}
    assert lab.status()["learned"] == []
    lab.disable()
    safe(lab, f"--keep-on-tcp={name}")
    connect(host, write(tmp_path, "client", CLIENT), 1)
    assert settled(lab, tcp_bytes=2 * ROUNDS * SIZE)["fallbacks"] == {"policy-user": 1}


def test_other_overrides_are_other_options(accelerated_lab: Lab, host: Host) -> None:
    lab = accelerated_lab
    assert host.path.exists()
    safe(lab, "--accelerate=a", "--accelerate=b")
    safe(lab, "--accelerate=b", "--accelerate=a")
    arguments = [word for word in lab.enable_arguments() if word != "--policy=all"]
    refused = lab.cli(*arguments, "--accelerate=a", expect=1).stderr
    assert "--accelerate is a,b, not a" in refused


def test_nothing_is_learned_where_nobody_is_asked(
    accelerated_lab: Lab, host: Host, tmp_path: Path
) -> None:
    lab = accelerated_lab
    lab.enable()
    serve(host, write(tmp_path, "server", ECHO["blocking"]))
    connect(host, write(tmp_path, "client", CLIENT), 1)
    counters = settled(lab, redirected_bytes=2 * ROUNDS * SIZE)
    assert counters["fallbacks"] == {}
    status = lab.status()
    assert status["learned"] == []
    assert "reader" not in [each["name"] for each in status["programs"]]


# --- What is shipped ------------------------------------------------------------------------


def forget_what_is_shipped(lab: Lab) -> None:
    with Datapath(lab.pin_dir) as datapath:
        for name in programs.SHIPPED:
            libbpf.delete(datapath.fd("known_programs"), programs.name_key(name))


SERVERS = {
    "nginx": (
        ["nginx", "-p", "{directory}", "-c", "{directory}/nginx.conf"],
        ["wrk", "-t1", "-c4", "-d1", f"http://127.0.0.1:{PORT}/page"],
    ),
    "redis": (
        ["redis-server", "--port", str(PORT), "--save", "", "--daemonize", "no"],
        ["redis-benchmark", "-p", str(PORT), "-n", "2000", "-c", "8", "-t", "get,set", "-q"],
    ),
    "memcached": (
        ["memcached", "-p", str(PORT), "-l", "127.0.0.1", "-u", "nobody"],
        [sys.executable, "{directory}/client.py"],
    ),
    "node": (
        ["node", "{directory}/server.js"],
        ["curl", "-sS", "--output", "/dev/null", f"http://127.0.0.1:{PORT}/[1-9]"],
    ),
}
# Its first connection asks for the server's configuration and waits in recv(); it takes no
# signals, and all others are polled.
SEEN_AND_SHIPPED_ALL_THE_SAME = {"redis-benchmark": "policy-blocking"}
MEMCACHED_CLIENT = """
    import socket
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as sock:
            for _ in range(ROUNDS):
                sock.sendall(b"version\\r\\n")
                assert sock.recv(100).startswith(b"VERSION")
    """
NODE_SERVER = """
    require("http").createServer((q, a) => a.end("x".repeat(1000))).listen(%d, "127.0.0.1")
    """
NGINX = """
    daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;
    events {{ worker_connections 64; }}
    http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {directory}; }} }}
    """


@pytest.mark.parametrize("server", SERVERS)
def test_shipped_programs_behave_as_shipped(
    accelerated_lab: Lab, host: Host, tmp_path: Path, server: str
) -> None:
    """Watch them as if nobody knew them: none that is shipped as good is seen otherwise."""
    lab = accelerated_lab
    tmp_path.chmod(0o755)
    (tmp_path / "page").write_bytes(bytes(30_000))
    (tmp_path / "nginx.conf").write_text(NGINX.format(directory=tmp_path, port=PORT))
    (tmp_path / "server.js").write_text(NODE_SERVER % PORT)
    write(tmp_path, "client", MEMCACHED_CLIENT)
    argv, client = (
        [word.format(directory=tmp_path) for word in words] for words in SERVERS[server]
    )
    safe(lab)
    forget_what_is_shipped(lab)
    host.popen(*argv)
    wait_until(lambda: is_listening(host), what=f"{server} listens")
    for _ in range(TO_EARN):
        assert host.popen(*client).wait(30) == 0
    wait_until(lambda: not lab.dump()["connections"])
    found = {each["program"]: each for each in lab.status()["learned"]}
    for argument in (argv[0], client[0]):
        name = executable_name(argument)
        assert name in found, f"{name} was not seen: {found}"
        assert found[name]["reason"] == SEEN_AND_SHIPPED_ALL_THE_SAME.get(name), found[name]
        if argument != sys.executable:
            assert programs.SHIPPED[name] & Trait.RECV


def executable_name(command: str) -> str:
    path = shutil.which(command)
    assert path, f"{command} is not installed"
    return run("readlink", "-f", path).strip().rpartition("/")[2][:15]


def test_every_known_program_is_pinned(accelerated_lab: Lab, host: Host) -> None:
    lab = accelerated_lab
    assert host.path.exists()
    safe(lab)
    dumped = json.loads(
        run("bpftool", "-j", "map", "dump", "pinned", lab.pin_dir / "known_programs")
    )
    assert len(dumped) == len(programs.SHIPPED)


def test_a_shipped_splicer_is_left_alone(accelerated_lab: Lab, host: Host, tmp_path: Path) -> None:
    """Known by its name alone, from the first connection on."""
    lab = accelerated_lab
    haproxy = tmp_path / "haproxy"
    shutil.copy(sys.executable, haproxy)
    haproxy.chmod(0o755)
    safe(lab)
    server = write(tmp_path, "server", ECHO["splice"])
    host.popen(haproxy, "-I", server)
    wait_until(lambda: is_listening(host), what="it listens")
    sock = host.socket()
    sock.connect(("127.0.0.1", PORT))
    sock.sendall(b"word")
    assert receive(sock, 4) == b"word"
    assert lab.counters()["fallbacks"] == {"policy-splice": 1}


def test_postgresql_behaves_as_shipped(accelerated_lab: Lab, host: Host, tmp_path: Path) -> None:
    """As above; it does not run as root, and needs a database first."""
    lab = accelerated_lab
    (bin_directory,) = {path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")}
    data = tmp_path / "data"
    data.mkdir()
    shutil.chown(data, "nobody")
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    user = ["setpriv", "--reuid=nobody", "--clear-groups"]
    run(
        *user, bin_directory / "initdb", "-D", data, "-U", "nobody", "-A", "trust", "-N", timeout=60
    )
    options = ["-p", str(PORT), "-h", "127.0.0.1", "-k", str(data), "-c", "fsync=off"]
    safe(lab)
    forget_what_is_shipped(lab)
    server = host.popen(*user, bin_directory / "postgres", "-D", data, *options)
    wait_until(lambda: is_listening(host), 30, "postgres listens")
    client = ["-h", "127.0.0.1", "-p", str(PORT), "-U", "nobody", "postgres"]
    for argv in (["pgbench", "-i", "-q"], ["pgbench", "-S", "-n", "-c4", "-t100"]):
        assert host.popen(bin_directory / argv[0], *argv[1:], *client).wait(60) == 0
    for _ in range(TO_EARN):
        assert host.popen(bin_directory / "psql", "-c", "select 1", *client).wait(30) == 0
    server.send_signal(signal.SIGINT)
    server.wait(30)
    for name in ("postgres", "pgbench", "psql"):
        reasons = {each["reason"] for each in lab.status()["learned"] if each["program"] == name}
        # With other arguments it is another program, and may have made too few connections.
        assert {None} <= reasons <= {None, "policy-unknown"}, f"{name}: {reasons}"
        assert programs.SHIPPED[name] & Trait.RECV
