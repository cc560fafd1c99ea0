"""Bad input and bad machines: one clear error, its exit code, and nothing half-done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import BPFFS, Lab, attached, cgroup2_mounts, run

FAILED, USAGE, UNKNOWN, NOT_PERMITTED, HOST = 1, 2, 4, 77, 78
# One right is kept, so that the checkout may lie where only root can read.
NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]
NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


@pytest.fixture
def lab(accelerated_lab: Lab) -> Lab:
    """Return a laboratory in which `enable` is expected to fail."""
    accelerated_lab.enabled_once = True  # so that its objects are looked for
    return accelerated_lab


def refuse(
    lab: Lab,
    *args: str | Path,
    code: int,
    says: str,
    prefix: list[str] | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Expect one error and one hint, and that nothing was left; return stderr."""
    refused = lab.cli(*args, expect=code, prefix=prefix, env=env)
    lines = refused.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1, refused.stderr
    assert any(line.startswith("Hint: ") for line in lines), refused.stderr
    assert says in refused.stderr, refused.stderr
    assert not lab.pin_dir.exists()
    assert not attached(lab.cgroup)
    return refused.stderr


def without(*targets: Path) -> list[str]:
    """Return a prefix that runs a command where these are not mounted."""
    script = "umount -l " + " ".join(map(str, targets)) + ' && exec "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh"]


@pytest.mark.parametrize("who", [NOBODY, NO_CAPABILITIES], ids=["nobody", "root without caps"])
@pytest.mark.parametrize("command", ["enable", "disable"])
def test_without_permission_nothing_is_changed(lab: Lab, who: list[str], command: str) -> None:
    lab.host()
    args = lab.enable_arguments() if command == "enable" else ["disable"]
    if command == "disable":
        lab.enable()
        before = lab.status()
        refused = lab.cli("disable", expect=NOT_PERMITTED, prefix=who)
        assert "Error: cannot " in refused.stderr
        assert "Hint: " in refused.stderr
        assert lab.status() == before
    else:
        refuse(lab, *args, code=NOT_PERMITTED, says="Error: cannot ", prefix=who)


@pytest.mark.parametrize("command", ["status", "dump"])
def test_who_may_not_look_is_told_so(lab: Lab, command: str) -> None:
    lab.host()
    lab.enable()
    done = lab.cli(command, expect=UNKNOWN if command == "status" else NOT_PERMITTED, prefix=NOBODY)
    assert "0 entries" not in done.stdout
    assert "Error: " in done.stderr


def test_a_cgroup_that_does_not_exist(lab: Lab) -> None:
    path = lab.cgroup / "no-such-group"
    refuse(lab, "enable", "--scope=all", "--cgroup", path, code=USAGE, says=str(path))


def test_a_cgroup_that_is_none(lab: Lab, tmp_path: Path) -> None:
    refuse(lab, "enable", "--scope=all", "--cgroup", tmp_path, code=USAGE, says=str(tmp_path))


def test_a_namespace_that_does_not_exist(lab: Lab) -> None:
    path = f"/run/netns/{lab.name}-none"
    refuse(lab, "enable", "--cgroup", lab.cgroup, "--netns", path, code=USAGE, says=path)


def test_a_namespace_that_is_none(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("no namespace")
    for wrong in (path, "/proc/self/ns/mnt"):
        refuse(lab, "enable", "--cgroup", lab.cgroup, "--netns", wrong, code=USAGE, says=str(wrong))


@pytest.mark.parametrize(
    "option",
    ["--ports=0", "--ports=1-", "--ports=web", "--ports=70000", "--max-connections=0", "--scope=x"],
)
def test_a_value_that_makes_no_sense(lab: Lab, option: str) -> None:
    done = lab.cli(*lab.enable_arguments([lab.host()]), option, expect=USAGE)
    assert "Error: " in done.stderr
    assert not lab.pin_dir.exists()


def test_a_pin_directory_that_is_not_on_bpffs(lab: Lab, tmp_path: Path) -> None:
    lab.host()
    lab.pin_dir = tmp_path / "pins"
    for command in (lab.enable_arguments(), ["disable"], ["status"], ["dump"]):
        done = lab.cli(*command, expect=None)
        if command[0] == "enable":
            assert done.returncode in (USAGE, HOST), done.stderr
            assert f"'{lab.pin_dir}" in done.stderr
            assert "Hint: " in done.stderr
    assert not lab.pin_dir.exists()
    assert not list(tmp_path.iterdir())


def test_a_pin_directory_that_holds_something_else(lab: Lab) -> None:
    lab.host()
    lab.pin_dir.mkdir()
    theirs = lab.pin_dir / "theirs"
    kind = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", "theirs"]
    run("bpftool", "map", "create", theirs, *kind)
    try:
        for command in (lab.enable_arguments(), ["disable"]):
            refused = lab.cli(*command, expect=FAILED)
            assert refused.stderr.count("Error: ") == 1
            assert str(lab.pin_dir) in refused.stderr
            assert "Hint: " in refused.stderr
            assert [path.name for path in lab.pin_dir.iterdir()] == ["theirs"]
            assert not attached(lab.cgroup)
    finally:
        theirs.unlink()
        lab.pin_dir.rmdir()


def test_a_machine_without_bpffs(lab: Lab) -> None:
    lab.host()
    prefix = without(BPFFS)
    refuse(lab, *lab.enable_arguments(), code=HOST, says="bpf", prefix=prefix)


def test_a_machine_without_cgroup_v2(lab: Lab) -> None:
    host = lab.host()
    refuse(
        lab,
        "enable",
        "--netns",
        host.path,
        code=HOST,
        says="cgroup",
        prefix=without(*reversed(cgroup2_mounts())),
    )


def test_docker_scope_without_docker(lab: Lab, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/docker.sock"
    says = str(tmp_path)
    args = ["enable", "--cgroup", lab.cgroup, "--docker-host", nowhere]
    assert "Traceback" not in refuse(lab, *args, code=HOST, says=says)


def fake_bcc(directory: Path, text: str) -> dict[str, str]:
    package = directory / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text(text)
    return {"PYTHONPATH": str(directory)}


@pytest.mark.parametrize(
    "text",
    [
        "class Lattice:\n    'N-dim BCC lattice.'\n",
        "raise ImportError('No module named bcc')\n",
        "raise ImportError('libbcc.so.0: cannot open shared object file')\n",
    ],
    ids=["the impostor of the same name", "missing", "without its library"],
)
def test_a_machine_without_usable_bcc(lab: Lab, tmp_path: Path, text: str) -> None:
    lab.host()
    env = fake_bcc(tmp_path, text)
    stderr = refuse(lab, *lab.enable_arguments(), code=HOST, says="bcc", env=env)
    assert "python3-bpfcc" in stderr
    # None of these needs BCC.
    lab.enable()
    for command in (["status"], ["dump"], ["disable"]):
        lab.cli(*command, env=env)


def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    lab.host()
    lab.cli(*lab.enable_arguments(), "--dry-run")
    assert not lab.pin_dir.exists()
    assert not attached(lab.cgroup)


def test_json_carries_its_schema(lab: Lab) -> None:
    lab.host()
    off = json.loads(lab.cli("-o", "json", "status", expect=3).stdout)
    lab.enable()
    on = lab.status()
    assert off["schema"] == on["schema"] == "sockaccel.status/1"
    assert (off["active"], on["active"]) == (False, True)
    assert on["cgroup"] == str(lab.cgroup)
    assert on["namespaces"] == 1
    dump = lab.dump()
    assert dump["schema"] == "sockaccel.dump/1"
    assert (dump["entries"], dump["connections"]) == (0, [])
    kinds = {program["type"]: program for program in on["programs"]}
    assert {"sock_ops", "sk_msg"} <= set(kinds)
    assert all(program["attached"] and program["pinned"] for program in on["programs"])
    assert on["map"]["name"] == "sock_ops_map"
    assert {path.name for path in lab.pin_dir.iterdir()} >= {"sock_ops", "sk_msg", "sock_ops_map"}


def test_skipping_is_a_failure_where_the_tests_were_promised(lab: Lab) -> None:
    """The rule that keeps this directory honest."""
    test = f"{__file__}::test_json_carries_its_schema"
    argv = [*NOBODY, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", test]
    root = Path(__file__).parents[2]
    outcome = {}
    for required in ("", "kernel"):
        env = {**os.environ, "SOCKACCEL_REQUIRE": required, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            argv, capture_output=True, text=True, env=env, cwd=root, timeout=60, check=False
        )
        outcome[required] = (done.returncode, done.stdout)
    assert outcome[""][0] == 0, outcome
    assert "1 skipped" in outcome[""][1]
    assert "SOCKACCEL_REQUIRE=kernel" in outcome[""][1]
    assert outcome["kernel"][0] == 1, outcome
    assert "lacks root" in outcome["kernel"][1]
