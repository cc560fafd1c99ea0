"""The command line, where nothing is enabled and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from sockaccel.cli import dump, main
from sockaccel.datapath import lifecycle, pins, state
from sockaccel.datapath.layout import Conn, ConnRecord, PairKey, Reason, Side
from sockaccel.datapath.options import Options
from sockaccel.datapath.state import Datapath, Loaded, Program
from sockaccel.errors import HostError, NotPermittedError
from sockaccel.inspect import status
from sockaccel.inspect.processes import Owner
from sockaccel.inspect.status import Counters, Status
from sockaccel.scope import docker
from sockaccel.scope.cgroup import default_cgroup
from sockaccel.scope.plan import Entry
from sockaccel.scope.selection import Override, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ["enable", "disable", "status", "dump", "doctor"]
STATUS_KEYS = {
    "schema",
    "active",
    "cgroup",
    "scope",
    "namespaces",
    "programs",
    "map",
    "counters",
    "agent",
}
STATUS_MORE = {"policy", "draining", "learned"}
COUNTER_KEYS = {
    "connections_paired",
    "connections_unpaired",
    "redirected_bytes",
    "redirected_messages",
    "tcp_bytes",
    "tcp_messages",
    "fallbacks",
}
ENDPOINT_KEYS = {
    "cookie",
    "local",
    "remote",
    "netns_cookie",
    "container",
    "pid",
    "process",
    "redirected_bytes",
    "redirected_messages",
    "tcp_bytes",
    "tcp_messages",
    "reason",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SOCKACCEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOCKACCEL_CONFIG", os.devnull)
    for name in ("NO_COLOR", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    """Return a pin directory that does not exist."""
    return tmp_path / "none"


@pytest.fixture
def run(absent: Path) -> Run:
    """Return what runs the command line as a process; no run may end in a traceback."""

    def command(
        *args: str | Path,
        code: int,
        prefix: tuple[str, ...] = (),
        pin_dir: Path = absent,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        argv = [*prefix, sys.executable, "-m", "sockaccel", "--pin-dir", pin_dir, *args]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            argv, **(streams | options), text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stderr
        return done

    return command


def in_process(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    """Run the command line here, so that parts of it can be replaced; return the exit code."""
    monkeypatch.setattr(sys, "argv", ["sockaccel", *map(str, args)])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def error_lines(text: str) -> tuple[str, str]:
    """Return the one error and the one hint."""
    lines = text.splitlines()
    assert len(lines) == 2, text
    assert lines[0].startswith("Error: cannot "), text
    assert lines[1].startswith("Hint: "), text
    return lines[0], lines[1]


# Help and usage


def test_help_lists_the_commands(run: Run) -> None:
    done = run("--help", code=0)
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run: Run, name: str, flag: str) -> None:
    done = run(name, flag, code=0)
    assert done.stderr == ""
    assert f" {name} [OPTIONS]" in done.stdout
    assert "--output" in done.stdout


def test_help_names_the_options_of_the_interface(run: Run) -> None:
    text = run("enable", "--help", code=0).stdout
    for option in (
        "--cgroup PATH",
        "--scope [docker|all]",
        "--policy [safe|all]",
        "--accelerate PROGRAM",
        "--keep-on-tcp PROGRAM",
        "--netns PATH",
        "--opt-in",
        "--network NAME",
        "--project NAME",
        "--ports LIST",
        "--max-connections",
        "--docker-host URL",
        "--dry-run",
    ):
        assert option in text
    assert "--wait SECONDS" in run("disable", "--help", code=0).stdout
    text = run("dump", "--help", code=0).stdout
    for option in ("--container NAME", "--port P", "--state [redirect|tcp|mixed]", "--follow"):
        assert option in text


@pytest.mark.parametrize(
    "args",
    [
        ["--nonsense"],
        ["nonsense"],
        ["-o", "xml", "status"],
        ["--color", "blue", "status"],
        ["status", "more"],
        *([name, "--nonsense"] for name in COMMANDS),
        ["enable", "--scope", "x"],
        ["enable", "--policy", "x"],
        ["enable", "--max-connections", "0"],
        ["enable", "--max-connections", "1000001"],
        ["disable", "--wait", "-1"],
        ["dump", "--port", "0"],
        ["dump", "--port", "65536"],
        ["dump", "--state", "x"],
    ],
    ids=" ".join,
)
def test_what_is_no_option_or_value_is_a_usage_error(run: Run, args: list[str]) -> None:
    done = run("-o", "json", *args, code=2)
    assert done.stdout == ""
    error_lines(done.stderr)


@pytest.mark.parametrize(
    ("args", "error", "hint"),
    [
        ("enabel", "run 'sockaccel enabel': there is no such command", "sockaccel enable"),
        ("qqq", "run 'sockaccel qqq': there is no such command", "sockaccel --help"),
        (
            "scope lst",
            "run 'sockaccel scope lst': there is no such command",
            "sockaccel scope list",
        ),
        (
            "enable --port 80",
            "use option '--port' of 'sockaccel enable': there is no such option",
            "sockaccel enable --ports 80,8000-8999",
        ),
        (
            "enable --qqq",
            "use option '--qqq' of 'sockaccel enable': there is no such option",
            "sockaccel enable --help",
        ),
        (
            "disable --pin-dir /sys/fs/bpf/x",
            "use option '--pin-dir' of 'sockaccel' here: it stands before the command",
            "sockaccel --pin-dir /sys/fs/bpf/sockaccel disable",
        ),
        (
            "agent --debug",
            "use option '--debug' of 'sockaccel' here: it stands before the command",
            "sockaccel --debug agent",
        ),
        (
            "enable --scope dockr",
            "use option '--scope': 'dockr' is not one of 'docker', 'all'",
            "--scope docker",
        ),
        (
            "enable --scope al",
            "use option '--scope': 'al' is not one of 'docker', 'all'",
            "--scope all",
        ),
        (
            "enable --max-connections x",
            "use option '--max-connections': 'x' is not an integer",
            "--max-connections 65536",
        ),
        ("disable --wait x", "use option '--wait': 'x' is not a number", "--wait 0"),
        (
            "disable --wait",
            "use option '--wait': it requires an argument",
            "sockaccel disable --wait 0",
        ),
        (
            "--debug=1 disable",
            "use option '--debug': it does not take a value",
            "sockaccel --debug",
        ),
        (
            "scope exclude",
            "run 'sockaccel scope exclude': NAME... is missing",
            "sockaccel scope exclude NAME...",
        ),
        (
            "bench compare a",
            "run 'sockaccel bench compare': B is missing",
            "sockaccel bench compare A B",
        ),
        (
            "status more",
            "run 'sockaccel status': got unexpected extra argument (more)",
            "sockaccel status --help",
        ),
    ],
)
def test_a_usage_error_says_what_is_wrong_and_one_thing_to_type(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: str,
    error: str,
    hint: str,
) -> None:
    assert in_process(monkeypatch, *args.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert error_lines(captured.err) == (f"Error: cannot {error}", f"Hint: {hint}")


def test_a_name_of_a_namespace_that_is_too_long_is_an_error_of_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Options]
) -> None:
    for path in ("/" + "x" * 5000, "/"):
        assert in_process(monkeypatch, "enable", "--netns", path) == 2
        error, hint = error_lines(capsys.readouterr().err)
        assert error.startswith(f"Error: cannot use network namespace '{path}': ")
        assert hint == "Hint: lsns -t net -o PID,NSFS,COMMAND"
    assert asked == []


@pytest.mark.parametrize("name", ["SOCKACCEL_SCOPE", "SOCKACCEL_ENABLE_SCOPE", "SOCKACCEL_OUTPUT"])
def test_a_variable_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "x")
    assert in_process(monkeypatch, "enable", "--dry-run") == 2
    error, hint = error_lines(capsys.readouterr().err)
    assert error.startswith(f"Error: cannot use variable '{name}': 'x' is not one of ")
    assert hint == f"Hint: unset {name}"


def test_a_variable_whose_text_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOCKACCEL_PORTS", "80-70")
    assert in_process(monkeypatch, "config", "show") == 2
    error, hint = error_lines(capsys.readouterr().err)
    named = "Error: cannot use variable 'SOCKACCEL_PORTS': "
    assert error.startswith(f"{named}cannot use ports '80-70'")
    assert hint == "Hint: unset SOCKACCEL_PORTS"


def test_the_agent_only_says_what_it_would_do_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(lifecycle, "check_capabilities", lambda: None)
    monkeypatch.setattr(pins, "check", lambda _: None)
    pin_dir = tmp_path / "pins"
    words = ("--pin-dir", pin_dir, "agent", "--scope", "all", "--dry-run")
    assert in_process(monkeypatch, *words) == 0
    assert f"Would load sock_ops, sk_msg and sk_skb and pin them in {pin_dir}" in (
        capsys.readouterr().out
    )
    assert not pin_dir.exists()


def test_without_a_command_the_help_is_shown_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, "scope") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *shown, error, hint = captured.err.splitlines()
    assert shown[0].startswith("Usage: sockaccel scope ")
    assert error == "Error: cannot run 'sockaccel scope': no command is given"
    assert hint == "Hint: sockaccel scope COMMAND --help"


@pytest.mark.parametrize(
    "args", [["enable", "--scope=all", "--cgroup"], ["status"], ["enable", "--scope"]]
)
def test_whatever_a_value_holds_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert in_process(monkeypatch, *args, "/no\nHint: rm\x1b[2J") == 2
    error, _ = error_lines(capsys.readouterr().err)
    assert "/no\\nHint: rm\\x1b[2J" in error


def test_ports_that_are_none_are_refused_before_anything_else(run: Run) -> None:
    done = run("enable", "--ports", "bad", code=2)
    assert done.stdout == ""
    error, hint = error_lines(done.stderr)
    assert error.startswith("Error: cannot use ports 'bad': ")
    assert hint == "Hint: --ports 80,8000-8999"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Options]:
    """Return what the options of every `enable` here have become; it stops after that."""
    found = []

    def is_enabled(_: Path, options: Options) -> bool:
        found.append(options)
        raise HostError("cannot go on: seen enough", "stop")

    monkeypatch.setattr("sockaccel.cli.options.default_cgroup", lambda: tmp_path)
    monkeypatch.setattr(lifecycle, "check_capabilities", lambda: None)
    monkeypatch.setattr("sockaccel.cli.enable.pins.check", lambda _: None)
    monkeypatch.setattr(lifecycle, "is_enabled", is_enabled)
    return found


@pytest.mark.parametrize(
    ("args", "error", "hint"),
    [
        (
            ["--accelerate", "/usr/bin/java"],
            "cannot use program '/usr/bin/java': it is not the name of an executable",
            "the name without its directory, such as `ls -l /proc/PID/exe` shows",
        ),
        (
            ["--keep-on-tcp", "nginx", "--keep-on-tcp", "bin/x"],
            "cannot use program 'bin/x': it is not the name of an executable",
            "the name without its directory, such as `ls -l /proc/PID/exe` shows",
        ),
        (
            ["--accelerate", ""],
            "cannot use program '': it is not the name of an executable",
            "the name without its directory, such as `ls -l /proc/PID/exe` shows",
        ),
        (
            ["--netns", ""],
            "cannot use network namespace '': it is empty",
            "lsns -t net -o PID,NSFS,COMMAND",
        ),
        (["--network", ""], "cannot use network '': it is empty", "docker network ls"),
        (["--project", ""], "cannot use project '': it is empty", "docker compose ls"),
        (
            ["--accelerate", "java", "--accelerate=a", "--keep-on-tcp", "java", "--keep-on-tcp=z"],
            "cannot accelerate program 'java': it is given with --keep-on-tcp, too",
            "give it once",
        ),
        (
            ["--policy", "all", "--accelerate", "java"],
            "cannot tell programs apart: --policy all does not ask which they are",
            "--policy safe",
        ),
        (
            ["--scope", "all", "--network", "front"],
            "cannot select containers: --scope all puts every network namespace in scope",
            "--scope docker",
        ),
        (
            ["--policy", "all", "--keep-on-tcp", "java"],
            "cannot tell programs apart: --policy all does not ask which they are",
            "--policy safe",
        ),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[Options],
    args: list[str],
    error: str,
    hint: str,
) -> None:
    assert in_process(monkeypatch, "enable", *args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert error_lines(captured.err) == (f"Error: {error}", f"Hint: {hint}")
    assert asked == []


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ([], "sockaccel enable --netns /run/netns/NAME"),
        (["--docker-host", "unix:///nowhere/d.sock"], "systemctl start docker"),
    ],
    ids=["a host without Docker", "one that was named"],
)
def test_enable_without_docker_says_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[Options],
    args: list[str],
    hint: str,
) -> None:
    monkeypatch.setattr(docker, "_SOCKETS", ("/nowhere/docker.sock",))
    monkeypatch.setattr(lifecycle, "is_enabled", lambda *_: False)
    monkeypatch.setattr("sockaccel.cli.enable.netns_cookie", lambda: 1)
    assert in_process(monkeypatch, "enable", "--dry-run", *args) == 78
    assert error_lines(capsys.readouterr().err)[1] == f"Hint: {hint}"


def test_programs_are_part_of_the_options_in_whatever_order_they_come(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Options]
) -> None:
    first = ["--accelerate", "java", "--accelerate", "dotnet", "--keep-on-tcp", "nginx"]
    again = ["--keep-on-tcp=nginx", "--accelerate=dotnet", "--accelerate=java", "--accelerate=java"]
    for args in (first, again, [], ["--policy", "all"]):
        assert in_process(monkeypatch, "enable", *args) == 78
    named, same, plain, everything = asked
    assert (named.accelerate, named.keep_on_tcp) == (("dotnet", "java"), ("nginx",))
    assert named == same
    for options in (plain, everything):
        assert (options.accelerate, options.keep_on_tcp) == ((), ())


def test_containers_are_selected_by_the_options_in_whatever_order_they_come(
    monkeypatch: pytest.MonkeyPatch, asked: list[Options]
) -> None:
    for args in (
        ["--opt-in", "--network", "b", "--network", "a", "--project", "shop"],
        ["--project=shop", "--network=a", "--network=b", "--network=b", "--opt-in"],
        [],
    ):
        assert in_process(monkeypatch, "enable", *args) == 78
    first, same, plain = asked
    assert first == same
    assert first.selection == Policy(True, ("a", "b"), ("shop",))
    assert plain.selection == Policy()


def test_enable_again_does_not_undo_what_an_agent_has_done_since_docker_was_asked(
    monkeypatch: pytest.MonkeyPatch, asked: list[Options]
) -> None:
    by_docker = Entry(policy_all=False, ports=None, by_docker=True)
    wanted: list[Mapping[int, Entry]] = []

    def enable(
        _: Path, options: Options, scope: lifecycle.Scope, *_rest: object, **_more: bool
    ) -> None:
        found = {5: by_docker, 6: by_docker, 9: by_docker}  # 9 has come into scope meanwhile
        wanted.append(scope.wanted(found, {}))
        wanted.append(scope.wanted(found, {"web": Override.EXCLUDE}))
        asked.append(options)
        raise HostError("cannot go on: seen enough", "stop")

    monkeypatch.setattr(lifecycle, "is_enabled", lambda *_: True)
    monkeypatch.setattr(lifecycle, "enable", enable)
    for name, answer in {
        "_present": ({5: by_docker, 6: by_docker}, {}),
        "snapshot": [],
        "members": [(6, container("web"))],  # 5 has exited
        "netns_cookie": 1,
        "all_namespaces": [],
        "local_networks": set(),
    }.items():
        monkeypatch.setattr(f"sockaccel.cli.enable.{name}", lambda *_, answer=answer: answer)
    assert in_process(monkeypatch, "enable") == 78
    assert len(asked) == 1
    assert [each.keys() for each in wanted] == [{6, 9}, {9}]


def test_programs_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch, asked: list[Options]
) -> None:
    monkeypatch.setenv("SOCKACCEL_ENABLE_ACCELERATE", "java dotnet")
    monkeypatch.setenv("SOCKACCEL_ENABLE_KEEP_ON_TCP", "nginx")
    assert in_process(monkeypatch, "enable") == 78
    assert (asked[0].accelerate, asked[0].keep_on_tcp) == (("dotnet", "java"), ("nginx",))


# Where nothing is enabled


def test_status_of_nothing_is_inactive(run: Run) -> None:
    done = run("status", code=3)
    assert done.stdout.startswith("inactive: nothing is pinned in ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    "args", [["-o", "json", "status"], ["status", "-o", "json"], ["status", "--output=json"]]
)
def test_status_in_json_has_the_keys_of_the_interface(run: Run, args: list[str]) -> None:
    done = run(*args, code=3)
    answer = json.loads(done.stdout)
    assert set(answer) == STATUS_KEYS | STATUS_MORE
    assert answer["schema"] == "sockaccel.status/1"
    assert (answer["active"], answer["programs"], answer["namespaces"]) == (False, [], 0)
    assert set(answer["map"]) == {"name", "id", "entries", "max_entries"}
    assert answer["map"]["name"] == "sock_ops_map"
    assert set(answer["counters"]) == COUNTER_KEYS
    assert answer["counters"]["fallbacks"] == {}
    assert answer["agent"] == {"running": False, "pid": None}
    assert done.stderr == ""


def test_the_output_behind_the_command_wins(run: Run) -> None:
    assert run("-o", "json", "status", "-o", "table", code=3).stdout.startswith("inactive")


def test_options_come_from_the_environment_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOCKACCEL_OUTPUT", "json")
    assert json.loads(run("status", code=3).stdout)["active"] is False
    assert run("-o", "table", "status", code=3).stdout.startswith("inactive")
    monkeypatch.setenv("SOCKACCEL_ENABLE_PORTS", "bad")
    assert "ports 'bad'" in run("enable", code=2).stderr
    monkeypatch.setenv("SOCKACCEL_OUTPUT", "xml")
    assert "xml" in run("status", code=2).stderr
    monkeypatch.delenv("SOCKACCEL_OUTPUT")
    monkeypatch.setenv("SOCKACCEL_PIN_DIR", str(tmp_path / "elsewhere"))
    argv = [sys.executable, "-m", "sockaccel", "dump"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert f"'{tmp_path}/elsewhere'" in done.stderr


@pytest.mark.parametrize("args", [["dump"], ["-o", "json", "dump"], ["dump", "--follow"]])
def test_dump_of_nothing_is_an_error_and_no_data(run: Run, absent: Path, args: list[str]) -> None:
    done = run(*args, code=1)
    assert done.stdout == ""
    error, hint = error_lines(done.stderr)
    assert f"'{absent}'" in error
    assert hint == f"Hint: sockaccel --pin-dir {absent} enable"


@pytest.mark.parametrize(("name", "code"), [("status", 4), ("dump", 1)])
def test_a_pin_directory_of_somebody_else_is_refused(
    run: Run, tmp_path: Path, name: str, code: int
) -> None:
    (tmp_path / "theirs").touch()
    done = run("-o", "json", name, code=code, pin_dir=tmp_path)
    assert done.stdout == ""
    assert "'theirs'" in error_lines(done.stderr)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("name", ["status", "dump"])
def test_what_an_interrupted_enable_left_does_not_confuse(
    run: Run, tmp_path: Path, name: str
) -> None:
    done = run(name, code=3 if name == "status" else 1, pin_dir=tmp_path)
    if name == "dump":
        assert error_lines(done.stderr)[1].endswith(" disable")


@pytest.mark.parametrize(("name", "code"), [("status", 4), ("dump", 2)])
def test_a_pin_directory_that_cannot_be_is_an_error_of_ours(
    run: Run, tmp_path: Path, name: str, code: int
) -> None:
    error_lines(run(name, code=code, pin_dir=tmp_path / ("x" * 300)).stderr)


def test_debug_shows_the_traceback(absent: Path) -> None:
    argv = [sys.executable, "-m", "sockaccel", "--debug", "--pin-dir", absent, "dump"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "",
        "false",
    ],
)
def test_no_debug_by_environment_is_no_debug(
    run: Run, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SOCKACCEL_DEBUG", value)
    error_lines(run("dump", code=1).stderr)


# Where stdout leads nowhere


@pytest.mark.parametrize("args", [["status"], ["-o", "json", "status"], ["--help"]])
def test_a_reader_that_has_gone_is_no_reason_to_complain(run: Run, args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(*args, code=1, stdout=writer).stderr == ""
    finally:
        os.close(writer)


def test_a_disk_that_is_full_is_an_error_of_one_line(run: Run) -> None:
    with Path("/dev/full").open("w") as full:
        assert "ENOSPC" in run("status", code=1, stdout=full).stderr


# Rights


@pytest.fixture
def nobody() -> tuple[str, ...]:
    """Return the prefix that takes a command's rights away."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv (util-linux) to run a command without root's rights")
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    argv = [*prefix, sys.executable, "-c", "import sockaccel.cli.enable"]
    if subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("needs a checkout that every user may read")
    return prefix


@pytest.mark.parametrize("args", [["enable", "--scope=all"], ["enable"], ["disable"]], ids=" ".join)
def test_who_is_not_root_may_change_nothing(
    run: Run, nobody: tuple[str, ...], args: list[str]
) -> None:
    if args[0] == "enable":
        try:
            default_cgroup()
        except HostError:
            pytest.skip("needs the root of cgroup v2")
    done = run(*args, code=77, prefix=nobody)
    assert done.stdout == ""
    error, hint = error_lines(done.stderr)
    assert "CAP_NET_ADMIN" in error
    assert hint == "Hint: run as root"


@pytest.mark.parametrize(("name", "code"), [("status", 4), ("dump", 77)])
def test_who_may_not_look_does_not_hear_that_it_is_off(
    run: Run, nobody: tuple[str, ...], tmp_path: Path, name: str, code: int
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = run("-o", "json", name, code=code, prefix=nobody, pin_dir=closed / "pins")
    assert done.stdout == ""
    assert "EACCES" in error_lines(done.stderr)[0]


def test_who_is_not_root_may_ask_for_help(run: Run, nobody: tuple[str, ...]) -> None:
    assert "Examples:" in run("enable", "--help", code=0, prefix=nobody).stdout


# Commands with their kernel side replaced


def test_a_wait_that_would_never_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: Path
) -> None:
    monkeypatch.setattr(lifecycle, "check_capabilities", lambda: pytest.fail("it began"))
    assert in_process(monkeypatch, "--pin-dir", absent, "disable", "--wait", "nan") == 2
    error, _ = error_lines(capsys.readouterr().err)
    assert error == "Error: cannot use option '--wait': 'nan' is not a number"


def test_disable_of_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: Path
) -> None:
    monkeypatch.setattr(lifecycle, "check_capabilities", lambda: None)
    monkeypatch.setattr(state, "loaded", lambda _: [])
    assert in_process(monkeypatch, "--pin-dir", absent, "disable") == 0
    assert capsys.readouterr().out == f"already disabled in {absent}\n"
    assert in_process(monkeypatch, "--pin-dir", absent, "disable", "--wait=0", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "sockaccel.disable/1",
        "was_enabled": False,
        "drained": True,
        "open": 0,
    }


@pytest.mark.parametrize("command", [["enable", "--scope=all", "--dry-run"], ["disable"]])
def test_a_pin_directory_that_is_on_no_bpffs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: list[str],
) -> None:
    monkeypatch.setattr(lifecycle, "check_capabilities", lambda: None)
    monkeypatch.setattr("sockaccel.cli.options.default_cgroup", lambda: Path("/c"))
    assert in_process(monkeypatch, "--pin-dir", tmp_path, *command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert error_lines(captured.err)[0].endswith("it is not on a bpffs")


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (NotPermittedError("cannot x: y", "z"), 77)],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(Datapath, "open", fail)
    assert in_process(monkeypatch, "dump") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ("" if code == 130 else "Error: cannot x: y\nHint: z")


ACTIVE = Status(
    active=True,
    cgroup="/c",
    scope="docker",
    policy="safe",
    namespaces=2,
    programs=(Program("sk_msg", "sk_msg", 17, pinned=True, attached=False),),
    map_id=5,
    entries=4,
    max_entries=131072,
    counters=Counters(1, 2, 3 << 20, 4, 5, 6, {"no-peer": 7, "disabled": 8}),
)


def test_status_shows_everything_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "read", lambda _: ACTIVE)
    assert in_process(monkeypatch, "status", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "sockaccel.status/1",
        "active": True,
        "cgroup": "/c",
        "scope": "docker",
        "policy": "safe",
        "namespaces": 2,
        "programs": [
            {"type": "sk_msg", "name": "sk_msg", "id": 17, "pinned": True, "attached": False}
        ],
        "map": {"name": "sock_ops_map", "id": 5, "entries": 4, "max_entries": 131072},
        "counters": {
            "connections_paired": 1,
            "connections_unpaired": 2,
            "redirected_bytes": 3 << 20,
            "redirected_messages": 4,
            "tcp_bytes": 5,
            "tcp_messages": 6,
            "fallbacks": {"no-peer": 7, "disabled": 8},
        },
        "agent": {"running": False, "pid": None},
        "draining": [],
        "learned": [],
    }


def test_status_shows_everything_to_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "read", lambda _: ACTIVE)
    assert in_process(monkeypatch, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "active for 2 network namespaces, cgroup /c, policy safe"
    assert "sk_msg   sk_msg  17  yes     NO" in lines
    assert "sock_ops_map  4 of 131072 entries" in lines
    assert "redirected    3.0 MiB in 4 messages" in lines
    assert "by TCP        5 B in 6 messages" in lines
    assert lines[-2:] == ["disabled        8", "no-peer         7"]


def test_status_says_what_drains_and_what_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = Status(
        active=False, programs=ACTIVE.programs, draining=(Loaded(9, 8, 3, redirecting=False),)
    )
    monkeypatch.setattr(status, "read", lambda _: left)
    assert in_process(monkeypatch, "status") == 3
    text = capsys.readouterr().out
    assert "an enable was interrupted" in text
    assert "3 sockets of an earlier enable are still open" in text
    assert in_process(monkeypatch, "-o", "json", "status") == 3
    assert json.loads(capsys.readouterr().out)["draining"] == [
        {"map_id": 9, "entries": 3, "redirecting": False}
    ]


def entry(
    number: int, side: Side, inode: int = 0, tcp: int = 0, in_map: int = 1, **values: Any
) -> ConnRecord:
    """Return one end of connection `number`, which is to port 8000 + number; tcp: bytes."""
    seqs = (number, 100 + number) if side is Side.CLIENT else (100 + number, number)
    client, server = 40000 + number, 8000 + number
    ports = (client, server) if side is Side.CLIENT else (server, client)
    conn = Conn(key=PairKey(*seqs, 0), side=side, cookie=0xA0 + side, **values)
    made = ConnRecord(conn=conn, inode=inode, family=2, in_map=in_map, state=1)
    made.local_port = ports[0]
    made.bytes_acked, made.write_seq = tcp, seqs[0] + tcp
    made.remote_port = int.from_bytes(ports[1].to_bytes(2, "big"), sys.byteorder)
    made.local_ip4[:] = made.remote_ip4[:] = (10, 0, 0, 1)
    return made


class Pinned:
    """A datapath with two whole connections, one half and one that cannot be read."""

    pin_dir = Path("/pins")

    def __init__(self) -> None:
        self.options = Options("/c", scope="docker")
        self.found = [
            entry(1, Side.CLIENT, 41, netns=5, redirected_bytes=2048, redirected_messages=2),
            entry(1, Side.SERVER, 42, netns=6, redirected_bytes=10, redirected_messages=1),
            entry(2, Side.CLIENT, netns=5, tcp=7, tcp_messages=3, last_reason=Reason.NO_PEER),
            entry(2, Side.SERVER, netns=7),
            entry(3, Side.SERVER, tcp=1, redirected_bytes=1, last_reason=Reason.UNREAD_TCP),
        ]
        self.keys = [*(each.conn.key for each in self.found), PairKey(9, 10, 0)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def records(self) -> list[ConnRecord]:
        return list(self.found)

    def entries(self) -> list[PairKey]:
        return list(self.keys)


def container(name: str, mode: str = "bridge") -> docker.Container:
    return docker.Container(name[0] * 64, name, 7, mode)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Pinned:
    made = Pinned()
    monkeypatch.setattr(Datapath, "open", lambda _: made)
    monkeypatch.setattr(
        dump, "owners", lambda inodes: {inode: Owner(inode + 1, "nginx") for inode in inodes}
    )
    monkeypatch.setattr(dump, "snapshot", lambda _: [container("web")])
    monkeypatch.setattr(dump, "members", lambda containers: [(6, each) for each in containers])
    monkeypatch.setattr(dump, "netns_cookie", lambda: 1)
    return made


def dumped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> dict[str, Any]:
    assert in_process(monkeypatch, "-o", "json", "dump", *args) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_dump_in_json_has_the_keys_of_the_interface(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    answer = dumped(monkeypatch, capsys)
    assert set(answer) == {"schema", "entries", "connections", "unreadable"}
    assert (answer["schema"], answer["entries"]) == ("sockaccel.dump/1", 6)
    assert answer["unreadable"] == ["000000090000000a"]
    first, second, half = answer["connections"]
    for connection in (first, second):
        assert set(connection) == {"id", "state", "client", "server"}
        for end in (connection["client"], connection["server"]):
            assert set(end) == ENDPOINT_KEYS
    assert (first["id"], first["state"]) == ("0000000100000065", "redirect")
    assert first["client"] == {
        "cookie": "a0",
        "local": "10.0.0.1:40001",
        "remote": "10.0.0.1:8001",
        "netns_cookie": 5,
        "container": None,
        "pid": 42,
        "process": "nginx",
        "redirected_bytes": 2048,
        "redirected_messages": 2,
        "tcp_bytes": 0,
        "tcp_messages": 0,
        "reason": None,
    }
    assert first["server"]["container"] == {"id": "w" * 64, "name": "web"}
    assert (second["state"], second["client"]["reason"]) == ("tcp", "no-peer")
    assert (second["client"]["pid"], second["client"]["process"]) == (None, None)
    assert (half["state"], half["client"], half["server"]["reason"]) == (
        "mixed",
        None,
        "unread-tcp",
    )


@pytest.mark.parametrize(
    ("args", "numbers"),
    [
        ([], [1, 2, 3]),
        (["--state", "redirect"], [1]),
        (["--state", "tcp"], [2]),
        (["--state", "mixed"], [3]),
        (["--port", "8001"], [1]),
        (["--port", "40002"], [2]),
        (["--port", "40003"], [3]),
        (["--port", "9"], []),
        (["--container", "web"], [1]),
        (["--container", "w" * 12], [1]),
        (["--container", "we"], []),
        (["--container", "web", "--state", "tcp"], []),
        (["--port", "8002", "--state", "tcp"], [2]),
    ],
)
def test_dump_shows_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pinned: Pinned,
    args: list[str],
    numbers: list[int],
) -> None:
    answer = dumped(monkeypatch, capsys, *args)
    assert [int(each["id"][:8], 16) for each in answer["connections"]] == numbers
    assert answer["entries"] == 6  # of the map, whatever is shown


def test_dump_shows_people_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    assert in_process(monkeypatch, "dump") == 0
    header, *rows, summary = (line.split() for line in capsys.readouterr().out.splitlines())
    columns = "STATE CLIENT SERVER CLIENT PROCESS SERVER PROCESS CLIENT SK SERVER SK"
    assert header == [*columns.split(), "REDIRECTED", "TCP", "WHY"]
    both = ["10.0.0.1:40001", "10.0.0.1:8001", "nginx(42)", "web(43)", "a0", "a1"]
    assert rows[0] == ["redirect", *both, "2.0", "KiB", "0", "B", "-"]
    assert rows[1][-3:] == ["7", "B", "no-peer"]
    last = ["mixed", "10.0.0.1:40003", "10.0.0.1:8003", "(gone)", "(not", "accepted)", "-", "a1"]
    assert rows[2][:8] == last
    assert rows[3] == ["unreadable", *["?"] * 9]
    assert " ".join(summary) == "6 entries, 3 of 3 connections shown"


def test_dump_shows_what_the_policy_keeps_on_tcp_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    reason = Reason.POLICY_SPLICE
    ends = [
        entry(4, side, 41, tcp=9, in_map=0, refused=reason, last_reason=reason) for side in Side
    ]
    pinned.found += ends
    answer = dumped(monkeypatch, capsys, "--port", "8004")
    (connection,) = answer["connections"]
    assert (answer["entries"], connection["state"]) == (6, "tcp")
    for end in (connection["client"], connection["server"]):
        assert (end["reason"], end["tcp_bytes"], end["redirected_bytes"]) == ("policy-splice", 9, 0)
        assert end["process"] == "nginx"
    assert in_process(monkeypatch, "dump", "--port", "8004") == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[-3:] == ["18", "B", "policy-splice"]


def test_dump_that_follows_writes_one_line_a_time_and_ends_with_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    left = iter([None, None])

    def sleep(_: float) -> None:
        if next(left, 0) == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(dump, "time", SimpleNamespace(sleep=sleep))
    assert in_process(monkeypatch, "-o", "json", "dump", "--follow") == 130
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["entries"] for line in lines] == [6, 6, 6]


def test_names_of_containers_are_an_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    def no_daemon(_: str | None) -> None:
        raise HostError("cannot reach Docker")

    monkeypatch.setattr(dump, "snapshot", no_daemon)
    assert dumped(monkeypatch, capsys)["connections"][0]["server"]["container"] is None
    pinned.options = Options("/c", scope="all")
    monkeypatch.setattr(dump, "snapshot", lambda _: pytest.fail("Docker was asked"))
    assert dumped(monkeypatch, capsys)["connections"][0]["server"]["container"] is None


def test_a_container_that_has_exited_does_not_take_the_names_of_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    both = [(None, container("exited")), (6, container("web"))]
    monkeypatch.setattr(dump, "members", lambda _: both)
    server = dumped(monkeypatch, capsys)["connections"][0]["server"]
    assert server["container"] == {"id": "w" * 64, "name": "web"}


def test_a_process_of_the_host_is_in_no_container(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    monkeypatch.setattr(dump, "snapshot", lambda _: [container("proxy", "host")])
    monkeypatch.setattr(dump, "members", lambda containers: [(5, each) for each in containers])
    monkeypatch.setattr(dump, "netns_cookie", lambda: 5)
    assert dumped(monkeypatch, capsys)["connections"][0]["client"]["container"] is None


def test_a_connection_that_opens_while_dump_looks_is_not_unreadable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: Pinned
) -> None:
    pinned.keys.pop()

    def slow(inodes: set[int]) -> dict[int, Owner]:
        pinned.found.append(entry(4, Side.CLIENT))
        pinned.keys.append(pinned.found[-1].conn.key)
        return {}

    monkeypatch.setattr(dump, "owners", slow)
    assert dumped(monkeypatch, capsys)["unreadable"] == []
