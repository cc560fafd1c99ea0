"""Switches acceleration on and off."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sockaccel.datapath import compiler, libbpf, pins, programs, scope_map, state
from sockaccel.datapath.compiler import READER
from sockaccel.datapath.layout import (
    MAX_KNOWN_PROGRAMS,
    PROGRAM_NAME_SIZE,
    Config,
    ConfigFlags,
)
from sockaccel.datapath.libbpf import AttachType
from sockaccel.datapath.scope_map import ScopeMap
from sockaccel.datapath.state import KEY_ZERO, Datapath
from sockaccel.datapath.trial import Trial, trial
from sockaccel.errors import (
    AttachError,
    DatapathError,
    HostError,
    InputError,
    NotPermittedError,
    SockaccelError,
    StateError,
    reason,
)
from sockaccel.scope.cgroup import default_cgroup
from sockaccel.scope.plan import Changes, Entry, plan, plan_networks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from sockaccel.datapath.layout import ProgramKey
    from sockaccel.datapath.options import Options
    from sockaccel.scope.netns import Network
    from sockaccel.scope.selection import Override

# In-flight handshakes; the least recent is pushed out, and then stays on TCP.
MAX_HANDSHAKES = 32_768
# Below this size a stream of writes is better off with TCP, which joins them; bytes.
SMALL_WRITE = 2_048
# Below this one, from the second unread write on, where TCP joins what is not yet acknowledged.
NAGLE_WRITE = 160
# Unread bytes that a redirect may add up to where the reader left SO_RCVBUF alone.
QUEUE_BYTES = 1 << 20
# What the bookkeeping of unread redirected messages may take, uncharged, for a socket; bytes.
QUEUE_OVERHEAD = 256 << 10

_POLL_S = 0.05
# Long enough for the kernel to free what no socket holds.
_FREE_S = 0.5
# CAP_SYS_ADMIN, which finding programs and maps by id and setns(2) want, implies CAP_BPF and
# CAP_PERFMON: bpf_capable() and perfmon_capable() in include/linux/capability.h.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


Wanted = Callable[["Mapping[int, Entry]", "Mapping[str, Override]"], "Mapping[int, Entry]"]
"""Says what is to be in scope, given what is and the user's overrides.

Called under the lock of the pin directory, so that what it is given still holds when its
answer is carried out: it must be quick, and neither ask Docker nor wait for anything.
"""


@dataclass(frozen=True)
class Scope:
    """Who is to be accelerated, as resolved from the options.

    local_networks: the addresses that a peer on this host can have; None: those that are
    noted stay.
    """

    wanted: Wanted
    local_networks: AbstractSet[Network] | None = None


@dataclass(frozen=True)
class Updated:
    """What update_scope() found and did."""

    namespaces: int
    """In scope now."""
    changes: Changes


@dataclass(frozen=True)
class Enabled:
    """What `enable` found and did."""

    already: bool
    namespaces: int
    """In scope now."""
    added: int = 0
    removed: int = 0
    """How the scope has changed, where it was enabled already."""
    trial: Trial | None = None
    """What this kernel did, where it was tried now."""


def check_capabilities() -> None:
    """Check that this process may load, attach and look.

    Raises:
        NotPermittedError: a capability is missing; it names which.

    """
    effective = 0
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise NotPermittedError(
            f"cannot change the datapath: missing {', '.join(missing)} (EPERM)", "run as root"
        )


def is_enabled(pin_dir: Path, options: Options) -> bool:
    """Return True when it is enabled with these options, False when nothing is active.

    Raises:
        StateError: it is enabled with other options, or the directory holds something else.

    """
    datapath = Datapath.open(pin_dir)
    if datapath is None:
        return False
    with datapath:
        # Attached and switched off: a `disable` was killed in between.
        if not (datapath.complete and datapath.active):
            return False
        differences = datapath.options.differences(options)
        if differences:
            raise _other_options(pin_dir, differences)
        return True


def _other_options(pin_dir: Path, differences: list[str]) -> StateError:
    return StateError(
        "cannot enable: already enabled with other options: " + "; ".join(differences),
        pins.command(pin_dir, "disable"),
    )


Listeners = Callable[[], "Mapping[int, ProgramKey]"]
"""Finds which program each open listener is, by the socket's cookie."""


def enable(
    pin_dir: Path, options: Options, scope: Scope, listeners: Listeners, *, force: bool = False
) -> Enabled:
    """Compile, load, pin, try, and attach. Nothing is left behind when it fails.

    The trial says what this kernel does; `force` attaches even where it failed.

    When it is enabled with these options already, only the scope is brought up to
    date: containers and namespaces come and go. `listeners` is asked afterwards: those
    that open later are seen by sock_ops.

    Raises:
        SockaccelError: any of errors.py.

    """
    _check_room(options)
    with pins.locked(pin_dir) as lock:
        if is_enabled(pin_dir, options):
            with _changing_scope(pin_dir) as datapath:
                updated = _update_scope(datapath, scope)
            _introduce(pin_dir, listeners)
            changes = updated.changes
            return Enabled(True, updated.namespaces, len(changes.added), len(changes.remove))
        staging = pins.staging(pin_dir)
        pins.refuse_foreign(staging)
        try:
            # What a killed loader, or a cgroup that was removed, has left.
            state.switch_off(pin_dir)
            _remove_all(staging, pin_dir)
            staging.mkdir()
            _load(staging, options, lock)
            namespaces = _fill(staging, options, scope, state.instance(pin_dir))
            tried = _try_out(staging, force=force)
            staging.rename(pin_dir)
            _attach(pin_dir, options)
            _introduce(pin_dir, listeners)
        except OSError as error:
            _remove_all(staging, pin_dir)
            raise DatapathError(
                f"cannot set up '{error.filename or pin_dir}': {reason(error)}",
                pins.command(pin_dir, "disable"),
            ) from error
        except BaseException:
            _remove_all(staging, pin_dir)
            raise
    return Enabled(already=False, namespaces=namespaces, trial=tried)


def _try_out(directory: Path, *, force: bool) -> Trial | None:
    """Set the flags that depend on the kernel. None: it could not be tried, and is forced.

    Raises:
        HostError: this kernel does not do what is needed.

    """
    with Datapath(directory) as datapath:
        try:
            tried = trial(directory, default_cgroup())
            if not (tried.one_queue and tried.copied_seq_kept and tried.intact):
                sockets = datapath.fd("sock_ops_map")
                libbpf.detach(datapath.fd("sk_skb"), sockets, AttachType.SK_SKB_STREAM_VERDICT)
                tried = trial(directory, default_cgroup())
        except SockaccelError:
            if not force:
                raise
            return None
        if not (tried.works or force):
            raise HostError(
                f"cannot enable: this kernel fails the trial: {tried.evidence[-1]}",
                "sockaccel doctor",
            )
        config = datapath.config
        if tried.stream_verdict and tried.one_queue:
            config.flags |= ConfigFlags.ONE_QUEUE
        if tried.fionread_right:
            config.flags |= ConfigFlags.FIONREAD
        datapath.config = config
        return tried


def update_scope(pin_dir: Path, scope: Scope, *, wait: bool = True) -> Updated:
    """Bring who is in scope up to date, where it is enabled.

    Live connections of a namespace that leaves go on by TCP from the next message on, and
    are accelerated again if it comes back.

    Raises:
        BlockingIOError: somebody else changes it, and `wait` is not set.
        StateError: nothing is enabled there.
        NotPermittedError: this user may not.
        DatapathError: a map is full.

    """
    with _changing_scope(pin_dir, wait=wait) as datapath:
        return _update_scope(datapath, scope)


def override_scope(
    pin_dir: Path, overrides: Mapping[str, Override | None], wanted: Wanted
) -> Updated:
    """Note the user's word on containers by name, None to forget it, and carry it out.

    It lives as long as the datapath is enabled, and `wanted` is given it from now on.

    Raises as update_scope() does, and InputError when no container can have such a name.
    """
    for name in overrides:
        scope_map.check_container_name(name)
    with _changing_scope(pin_dir) as datapath:
        maps = ScopeMap(datapath)
        for name, override in overrides.items():
            if override is None:
                maps.remove_override(name)
            else:
                maps.set_override(name, override)
        return _update_scope(datapath, Scope(wanted))


def adjust(pin_dir: Path, options: Options, listeners: Listeners) -> list[str]:
    """Give what is enabled other options; return how these differ from what it had.

    They hold for connections that are made from now on; who is in scope is for update_scope().

    Raises:
        StateError: nothing is enabled there, or an option that differs cannot be adjusted.
        NotPermittedError: this user may not.

    """
    with _changing_scope(pin_dir) as datapath:
        present = datapath.options
        if fixed := present.fixed_differences(options):
            raise _other_options(pin_dir, fixed)
        differences = options.differences(present)
        if differences:
            _check_room(options)
            _watch_readers(pin_dir, options)
            _set_options(datapath, options)
            if present.policy != options.policy:
                _introduce(pin_dir, listeners)
        return differences


def opened(pin_dir: Path) -> Datapath:
    """Return what is enabled there, opened. The caller closes it.

    Raises:
        StateError: nothing is enabled there.
        NotPermittedError: this user may not look.

    """
    datapath = Datapath.open(pin_dir)
    if datapath is None:
        pins.check_visible(pin_dir)
    elif datapath.complete and datapath.active:
        return datapath
    else:
        datapath.close()
    raise _nothing_enabled(pin_dir)


@contextmanager
def _changing_scope(pin_dir: Path, *, wait: bool = True) -> Iterator[Datapath]:
    with opened(pin_dir) as datapath:
        try:
            with pins.scope_locked(pin_dir, wait=wait):
                yield datapath
        except FileNotFoundError as error:  # disabled at this moment
            raise _nothing_enabled(pin_dir) from error


def _nothing_enabled(pin_dir: Path) -> StateError:
    return StateError(
        f"cannot use the scope of '{pin_dir}': nothing is enabled there",
        pins.command(pin_dir, "enable"),
    )


def _update_scope(datapath: Datapath, scope: Scope) -> Updated:
    maps = ScopeMap(datapath)
    actual = maps.entries()
    changes = plan(scope.wanted(actual, maps.overrides()), actual)
    try:
        # First where addresses are, so that the reasons of the first connections are right.
        if scope.local_networks is not None:
            maps.apply_networks(plan_networks(scope.local_networks, maps.networks()))
    finally:  # too many addresses must keep nobody in scope
        maps.apply(changes)
    return Updated(len(actual) + len(changes.added) - len(changes.remove), changes)


def disable(pin_dir: Path) -> bool:
    """Send all further messages by TCP, enrol nobody any more, and unpin; say if it was on.

    Also what is no longer pinned but held by live sockets.
    Sockets that are enrolled keep their queue until they close; then the kernel
    frees what is left. Works after a crash, and when nothing is enabled.

    Raises:
        NotPermittedError: this user may not.
        StateError: the directory holds something else.

    """
    # At once: the lock may be held by a compiler, that of another pin directory even.
    if Datapath.open(pin_dir):
        state.switch_off(pin_dir)
    with pins.locked(pin_dir), ExitStack() as stack:
        datapath = Datapath.open(pin_dir)
        if datapath:
            stack.enter_context(pins.scope_locked(pin_dir))  # adjust() pins a link
        state.switch_off(pin_dir)
        was_enabled = _detach(datapath) if datapath else False
        try:
            _remove_all(pins.staging(pin_dir), pin_dir)
        except OSError as error:
            raise DatapathError(
                f"cannot remove pin directory '{pin_dir}': {reason(error)}", f"ls -l {pin_dir}"
            ) from error
    return was_enabled


def _detach(datapath: Datapath) -> bool:
    """Detach sock_ops; say if it was attached by a link that is still pinned. Also closes."""
    with datapath:
        was_enabled = datapath.has(pins.LINK)
        if was_enabled:
            libbpf.detach_link(datapath.fd(pins.LINK))
        return was_enabled


def wait_drained(pin_dir: Path, timeout_s: float = 0.0) -> int:
    """Wait until no socket of what was disabled is open; return how many still are."""
    deadline = time.monotonic() + max(timeout_s, _FREE_S)
    while left := state.draining(pin_dir):
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    return sum(each.entries for each in left)


def _load(directory: Path, options: Options, lock: int) -> None:
    compiler.compile_and_pin(
        compiler.Request(
            str(directory),
            {
                "MAX_SOCKETS": 2 * options.max_connections,
                "MAX_HANDSHAKES": MAX_HANDSHAKES,
                "SMALL_WRITE": SMALL_WRITE,
                "NAGLE_WRITE": NAGLE_WRITE,
                "QUEUE_BYTES": QUEUE_BYTES,
                "QUEUE_OVERHEAD": QUEUE_OVERHEAD,
            },
        ),
        lock,
    )


def _fill(directory: Path, options: Options, scope: Scope, instance: int) -> int:
    """Fill the maps; return how many namespaces are in scope."""
    with Datapath(directory) as datapath:
        datapath.config = Config(instance=instance)
        _set_options(datapath, options)
        namespaces = _update_scope(datapath, scope).namespaces
        sockets = datapath.fd("sock_ops_map")
        # First the one queue, so that no socket ever enters without it.
        libbpf.attach(datapath.fd("sk_skb"), sockets, AttachType.SK_SKB_STREAM_VERDICT)
        libbpf.attach(datapath.fd("sk_msg"), sockets, AttachType.SK_MSG_VERDICT)
    return namespaces


def _check_room(options: Options) -> None:
    """Check that all the maps have room for these options, before the first is written.

    Raises:
        InputError: they have not.

    """
    options.to_bytes()
    known = len({*map(programs.name_key, programs.known(options.accelerate, options.keep_on_tcp))})
    if known > MAX_KNOWN_PROGRAMS:
        raise InputError(
            f"cannot tell so many programs apart: {known} names, at most {MAX_KNOWN_PROGRAMS}",
            "name fewer with --accelerate and --keep-on-tcp",
        )


def _set_options(datapath: Datapath, options: Options) -> None:
    """Write what the options say, and switch on. Nothing of the scope."""
    known = {
        programs.name_key(name): traits
        for name, traits in programs.known(options.accelerate, options.keep_on_tcp).items()
    }
    names = datapath.fd("known_programs")
    # First, so that there is room.
    for key in list(libbpf.keys(names, PROGRAM_NAME_SIZE)):
        if key not in known:
            libbpf.delete(names, key)
    for key, traits in known.items():
        libbpf.update(names, key, int(traits).to_bytes(4, sys.byteorder))
    flags = ConfigFlags.ENABLED
    if options.scope == "all":
        flags |= ConfigFlags.SCOPE_ALL
    if options.policy == "all":
        flags |= ConfigFlags.POLICY_ALL
    if (ports := options.port_set) is not None:
        flags |= ConfigFlags.PORTS
        bitmap = ports.to_bitmap()
        for word in range(len(bitmap) // 8):
            index = word.to_bytes(4, sys.byteorder)
            libbpf.update(datapath.fd("ports"), index, bitmap[8 * word : 8 * word + 8])
    config = datapath.config
    # What the trial has found out of this kernel stays.
    config.flags = flags | config.flags & (ConfigFlags.ONE_QUEUE | ConfigFlags.FIONREAD)
    datapath.config = config
    libbpf.update(datapath.fd("options"), KEY_ZERO, options.to_bytes())


def _introduce(pin_dir: Path, listeners: Listeners) -> None:
    """Tell the policy which programs have listened since before."""
    with Datapath(pin_dir) as datapath:
        for cookie, program in listeners().items():
            key = cookie.to_bytes(8, sys.byteorder)
            libbpf.update(datapath.fd("listeners"), key, bytes(program))


def _attach(pin_dir: Path, options: Options) -> None:
    _watch_readers(pin_dir, options)
    cgroup = options.cgroup
    try:
        with (
            libbpf.fd(libbpf.open_pin(pin_dir / "sock_ops")) as program,
            libbpf.fd(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)) as directory,
            libbpf.fd(libbpf.link_cgroup(program, directory, AttachType.CGROUP_SOCK_OPS)) as link,
        ):
            libbpf.pin(link, pin_dir / pins.LINK)
    except OSError as error:
        raise AttachError(
            f"cannot attach sock_ops to cgroup '{cgroup}': {reason(error)}",
            f"bpftool cgroup tree {cgroup} shows who else is attached",
        ) from error


def _watch_readers(pin_dir: Path, options: Options) -> None:
    """Attach the tracepoint program where the policy learns from it, and detach it elsewhere."""
    link_pin = pin_dir / pins.READER_LINK
    if options.policy == "all" or not (pin_dir / READER).exists():
        link_pin.unlink(missing_ok=True)
    elif not link_pin.exists():
        with (
            libbpf.fd(libbpf.open_pin(pin_dir / READER)) as program,
            libbpf.fd(libbpf.link_tracepoint(program)) as link,
        ):
            libbpf.pin(link, link_pin)


def _remove_all(*directories: Path) -> None:
    for directory in directories:
        pins.remove(directory)
