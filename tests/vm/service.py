"""The unit under systemd itself, in a VM: scripts/vm --systemd 6.12 python tests/vm/service.py.

Prints one JSON object per step. A step that fails does not keep the next from running.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
FILE = Path("/etc/sockaccel/config.toml")
DROP_IN = Path("/run/systemd/system/sockaccel.service.d/vm.conf")
UNIT = "sockaccel.service"
WATCHDOG_S = 20  # the unit's is longer; the machine is emulated
# The rest of the system takes minutes to start here, and has nothing to do with it.
FOR_THE_VM = f"[Unit]\nDefaultDependencies=no\n[Service]\nWatchdogSec={WATCHDOG_S}s\n"
TALK = """
import socket
listener = socket.create_server(("127.0.0.1", 7000))
near = socket.create_connection(("127.0.0.1", 7000))
far, _ = listener.accept()
near.settimeout(20); far.settimeout(20)
for _ in range(10):
    near.sendall(b"x" * 1000)
    left = 1000
    while left:
        left -= len(far.recv(left))
"""


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{argv} -> {done.returncode}: {done.stdout}{done.stderr}")
    return done


def shown(name: str) -> str:
    """Return a property of the unit."""
    return run("systemctl", "show", "--value", "--property", name, UNIT).stdout.strip()


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("sockaccel", "-o", "json", "status").stdout)
    return found


def configure(*namespaces: str, more: str = "") -> None:
    paths = [f"/run/netns/{name}" for name in namespaces]
    FILE.write_text(f'policy = "all"\nnetns = {json.dumps(paths)}\n{more}')


def wait_until(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds} s; {shown('StatusText')}"
        time.sleep(0.5)


def redirected() -> int:
    """Let two sockets talk in namespace a; return by how many bytes redirection went up."""
    before = status()["counters"]["redirected_bytes"]
    run("nsenter", "--net=/run/netns/a", "/usr/bin/python3", "-c", TALK)
    return int(status()["counters"]["redirected_bytes"] - before)


def ready() -> None:
    # Where nobody is shown the kernel's addresses, not even root.
    Path("/proc/sys/kernel/kptr_restrict").write_text("2")
    run("systemctl", "start", UNIT)
    assert shown("ActiveState") == "active"
    assert shown("StatusText")
    found = status()
    assert found["active"]
    assert found["namespaces"] == 1, found
    assert found["agent"]["running"]
    assert found["agent"]["pid"] == int(shown("MainPID")), found
    assert redirected() > 0


def reload() -> None:
    pid = shown("MainPID")
    run("ip", "netns", "add", "b")  # mounted after the start
    configure("a", "b")
    run("systemctl", "reload", UNIT)
    wait_until(lambda: status()["namespaces"] == 2)
    assert (shown("ActiveState"), shown("MainPID")) == ("active", pid)


def wrong_reload() -> None:
    pid = shown("MainPID")
    configure("a", more="polcy = 'safe'\n")
    done = run("systemctl", "reload", UNIT, check=False)
    assert done.returncode != 0
    assert (shown("ActiveState"), shown("MainPID")) == ("active", pid)
    assert status()["namespaces"] == 2
    configure("a", "b")


def watchdog() -> None:
    """An agent that hangs is started again, and takes over."""
    pid, before = int(shown("MainPID")), status()["map"]["id"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: shown("NRestarts") == "1", 4 * WATCHDOG_S)
    wait_until(lambda: shown("ActiveState") == "active")
    found = status()
    assert found["agent"]["pid"] == int(shown("MainPID")) != pid
    assert (found["map"]["id"], found["namespaces"]) == (before, 2)


def stop() -> None:
    before = status()["map"]["id"]
    run("systemctl", "stop", UNIT)
    assert shown("ActiveState") == "inactive"
    found = status()
    assert found["active"]
    assert found["map"]["id"] == before
    assert not found["agent"]["running"]
    assert redirected() > 0


def hopeless() -> None:
    """A wrong file is not tried again and again."""
    configure("a", more="polcy = 'safe'\n")
    run("systemctl", "reset-failed", UNIT, check=False)
    assert run("systemctl", "start", UNIT, check=False).returncode != 0
    time.sleep(5)
    assert shown("ActiveState") == "failed"
    assert (shown("ExecMainStatus"), shown("NRestarts")) == ("78", "0")


def gone() -> None:
    configure("a", "b")
    run("sockaccel", "disable")
    assert not Path("/sys/fs/bpf/sockaccel").exists()


STEPS = (ready, reload, wrong_reload, watchdog, stop, hopeless, gone)


def prepare() -> None:
    run("sh", str(HERE / "installed"))
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(FOR_THE_VM)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    run("ip", "netns", "add", "a")
    run("ip", "-n", "a", "link", "set", "lo", "up")
    configure("a")
    run("systemctl", "daemon-reload")


def main() -> None:
    prepare()
    for step in STEPS:
        began, problem = time.monotonic(), None
        try:
            step()
        except Exception as error:
            problem = f"{error!r}; {shown('StatusText')!r}; {shown('Result')}"
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"step": step.__name__, "problem": problem, "seconds": seconds}))


if __name__ == "__main__":
    main()
