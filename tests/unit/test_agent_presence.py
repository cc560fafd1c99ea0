from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.agent import presence
from sockaccel.agent.presence import Agent, AgentState, DockerState, Presence, Skipped
from sockaccel.errors import HostError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN_DIR = Path("/sys/fs/bpf/sockaccel_of_a_test")
STATE = AgentState(
    started=1.5,
    docker=DockerState("unix:///run/docker.sock", connected=False, since=2.5, error="gone"),
    decisions={"in-scope": 3, "label": 1},
    skipped=(Skipped("web", "f" * 64, "label"),),
    open_before=7,
)

# Another process: the kernel never refuses a lock to the one that has it already.
CLAIM = """
import sys
from pathlib import Path
from sockaccel.agent.presence import AgentState, Presence
held = Presence(Path(sys.argv[1]), Path(sys.argv[2]))
held.claim()
if len(sys.argv) > 3:
    held.tell(AgentState.from_json(sys.argv[3]))
print("claimed", flush=True)
if sys.stdin.readline():
    held.release()
    print("released", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that is the agent; a line on its stdin lets it release."""
    argv = [sys.executable, "-c", CLAIM, str(PIN_DIR), str(tmp_path / "run"), STATE.to_json()]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_state_comes_back_as_it_was_told() -> None:
    assert AgentState.from_json(STATE.to_json()) == STATE
    assert AgentState.from_json(AgentState().to_json()) == AgentState()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "sockaccel.agent/2"}', STATE.to_json().replace("url", "address")],
)
def test_what_is_no_state_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, too
        AgentState.from_json(text)


def test_who_is_the_agent_and_how_it_fares_can_be_found(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    assert presence.find(PIN_DIR, tmp_path / "run") == Agent(agent.pid, STATE)
    (lock,) = (tmp_path / "run").glob("*.pid")
    assert lock.read_text() == f"{agent.pid}\n"


def test_nobody_is_the_agent_of_another_pin_directory(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    other = PIN_DIR.with_name("another")
    assert presence.find(other, tmp_path / "run") is None
    held = Presence(other, tmp_path / "run")
    held.claim()
    held.release()


def test_a_second_agent_is_refused_and_told_which_process_it_is(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    with pytest.raises(StateError, match=rf"'{PIN_DIR}': process {agent.pid} is it") as caught:
        Presence(PIN_DIR, tmp_path / "run").claim()
    assert caught.value.hint == f"kill {agent.pid}"
    assert presence.find(PIN_DIR, tmp_path / "run") == Agent(agent.pid, STATE)


def test_a_killed_agent_is_none_and_the_next_one_takes_over(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    agent.kill()
    agent.wait()
    assert presence.find(PIN_DIR, tmp_path / "run") is None
    argv = [sys.executable, "-c", CLAIM, str(PIN_DIR), str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as following:
        assert following.stdout
        assert following.stdout.readline() == "claimed\n"
        # What the one before had said is not taken for its own.
        assert presence.find(PIN_DIR, tmp_path / "run") == Agent(following.pid, None)
        following.kill()


def test_what_a_killed_agent_has_left_can_be_cleared_and_only_that(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    presence.clear(PIN_DIR, tmp_path / "run")
    assert presence.find(PIN_DIR, tmp_path / "run") == Agent(agent.pid, STATE)
    agent.kill()
    agent.wait()
    (tmp_path / "run" / "another").touch()
    presence.clear(PIN_DIR, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["another"]
    presence.clear(PIN_DIR, tmp_path / "run")
    presence.clear(PIN_DIR, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_released_nothing_is_left(tmp_path: Path, agent: subprocess.Popen[str]) -> None:
    assert agent.stdin
    assert agent.stdout
    agent.stdin.write("\n")
    agent.stdin.flush()
    assert agent.stdout.readline() == "released\n"
    assert list((tmp_path / "run").iterdir()) == []
    assert presence.find(PIN_DIR, tmp_path / "run") is None
    held = Presence(PIN_DIR, tmp_path / "run")  # although that process still runs
    held.claim()
    held.release()


def test_a_directory_that_was_removed_meanwhile_does_not_matter(tmp_path: Path) -> None:
    held = Presence(PIN_DIR, tmp_path / "run")
    held.claim()
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    held.release()
    held.release()


def test_what_is_told_is_replaced_as_a_whole(tmp_path: Path) -> None:
    held = Presence(PIN_DIR, tmp_path / "run")
    held.claim()
    held.tell(STATE)
    held.tell(AgentState(started=9))
    (path,) = (tmp_path / "run").glob("*.json")
    assert json.loads(path.read_text())["started"] == 9
    held.release()


def test_a_place_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"cannot use '.*file.*': .* \(ENOTDIR|EEXIST\)") as caught:
        Presence(PIN_DIR, tmp_path / "file").claim()
    assert caught.value.hint == f"findmnt --target {tmp_path / 'file'}"
    assert presence.find(PIN_DIR, tmp_path / "file") is None
