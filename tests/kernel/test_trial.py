"""The quick trial: what it finds on this kernel, what it finds broken, and what it leaves."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sockaccel.datapath import libbpf
from sockaccel.datapath.layout import ConfigFlags
from sockaccel.datapath.libbpf import AttachType
from sockaccel.datapath.sandbox import Sandbox
from sockaccel.datapath.state import Datapath
from sockaccel.datapath.trial import Fionread, Trial, trial
from sockaccel.errors import AttachError, DatapathError, HostError

from .foreign import Foreign
from .harness import cgroup2_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Lab

MOUNT = cgroup2_mounts()[0] if cgroup2_mounts() else Path("/nonexistent")


@pytest.fixture
def datapath(accelerated_lab: Lab) -> Iterator[Datapath]:
    """Return a loaded datapath; that it is attached to a cgroup without processes is no matter."""
    accelerated_lab.host()
    accelerated_lab.enable()
    with Datapath(accelerated_lab.pin_dir) as opened:
        yield opened


def detach(datapath: Datapath, name: str, kind: AttachType) -> None:
    assert libbpf.detach(datapath.fd(name), datapath.fd("sock_ops_map"), kind)


def without_verdict(datapath: Datapath) -> Trial:
    detach(datapath, "sk_skb", AttachType.SK_SKB_STREAM_VERDICT)
    return trial(datapath.pin_dir, MOUNT)


def leaves() -> set[Path]:
    return {path for path in MOUNT.iterdir() if path.name.startswith("sockaccel_trial_")}


def test_this_kernel_accelerates(datapath: Datapath) -> None:
    found = trial(datapath.pin_dir, MOUNT)
    assert found.works, found.evidence
    assert found.stream_verdict
    assert found.one_queue, found.evidence
    assert found.copied_seq_kept, found.evidence
    assert found.fionread in Fionread, found.evidence
    assert found.fionread_right == (found.fionread is not Fionread.K0), found.evidence


def test_without_stream_verdict_there_are_two_queues_on_every_kernel(datapath: Datapath) -> None:
    """And the class does not depend on what is attached."""
    found, bare = trial(datapath.pin_dir, MOUNT), without_verdict(datapath)
    assert bare.works, bare.evidence
    assert not bare.stream_verdict
    assert not bare.one_queue, bare.evidence
    assert bare.fionread is found.fionread
    assert bare.fionread_right == (bare.fionread is Fionread.K2), bare.evidence


def test_programs_that_do_not_redirect_are_found_out(datapath: Datapath) -> None:
    detach(datapath, "sk_msg", AttachType.SK_MSG_VERDICT)
    found = trial(datapath.pin_dir, MOUNT)
    assert found.paired
    assert not found.redirected
    assert not found.works
    assert found.fionread is None
    assert "sent by TCP" in found.evidence[-1]


def test_nothing_is_left(datapath: Datapath) -> None:
    config, namespaces = bytes(datapath.config), datapath.namespaces()
    programs, before = datapath.programs(), leaves()
    trial(datapath.pin_dir, MOUNT)
    assert leaves() <= before
    assert (bytes(datapath.config), datapath.namespaces()) == (config, namespaces)
    assert datapath.programs() == programs
    assert not any(datapath.counters())
    assert not datapath.entries()
    assert not list(datapath.records())
    without_verdict(datapath)
    assert [each.attached for each in datapath.programs()] == [True, True, False]


def test_ports_and_scope_do_not_matter(datapath: Datapath) -> None:
    """The trial's own port and namespace are in nobody's scope."""
    config = datapath.config
    config.flags |= ConfigFlags.PORTS
    datapath.config = config
    assert trial(datapath.pin_dir, MOUNT).works
    assert datapath.config.flags & ConfigFlags.PORTS


def test_it_takes_little_time(datapath: Datapath) -> None:
    """Around 30 ms here; the best of three, because the machine is shared."""

    def seconds() -> float:
        start = time.perf_counter()
        trial(datapath.pin_dir, MOUNT)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.2


class Exclusive(Foreign):
    """A program that allows no other on the cgroups below."""

    FLAGS = 0


def test_somebody_who_allows_no_other_program_is_an_error(
    datapath: Datapath, accelerated_lab: Lab
) -> None:
    parent = accelerated_lab.cgroup / "taken"
    parent.mkdir()
    try:
        with Exclusive(parent), pytest.raises(AttachError, match="EPERM"):
            trial(datapath.pin_dir, parent)
        assert not any(parent.glob("sockaccel_trial_*"))
    finally:
        parent.rmdir()


def test_no_cgroup_v2_is_an_error(datapath: Datapath, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot use cgroup"):
        trial(datapath.pin_dir, tmp_path / "missing")


# --- The sandbox ----------------------------------------------------------------------------


def test_a_child_has_a_namespace_with_loopback_and_nothing_else() -> None:
    def look() -> tuple[list[tuple[int, str]], str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=1).close()
        return socket.if_nameindex(), Path("/proc/self/cgroup").read_text()

    with Sandbox(MOUNT) as sandbox:
        links, place = sandbox.run(look, 5)
        name = sandbox.cgroup.name
    assert [name for _, name in links] == ["lo"]
    assert name in place


def test_what_a_child_raises_is_raised() -> None:
    def fail() -> None:
        raise HostError("cannot do it", "a hint")

    with Sandbox(MOUNT) as sandbox, pytest.raises(HostError, match="cannot do it") as caught:
        sandbox.run(fail, 5)
    assert caught.value.hint == "a hint"


def test_a_child_that_hangs_is_killed_and_the_cgroup_removed() -> None:
    with Sandbox(MOUNT) as sandbox, pytest.raises(DatapathError, match=r"within 0\.2 s"):
        sandbox.run(lambda: time.sleep(60), 0.2)
    assert not sandbox.cgroup.exists()


def test_a_child_that_dies_is_an_error() -> None:
    with Sandbox(MOUNT) as sandbox, pytest.raises(DatapathError, match="ended with 3"):
        sandbox.run(lambda: os._exit(3), 5)
