from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sockaccel.datapath.layout import (
    COUNTER_SLOTS,
    MESSAGE_REASONS,
    Conn,
    ConnRecord,
    Counter,
    PairKey,
    Reason,
)
from sockaccel.errors import StateError
from sockaccel.inspect import status
from sockaccel.inspect.status import Counters, Status, total

if TYPE_CHECKING:
    from pathlib import Path

PER_CONNECTION = [
    Reason.OUT_OF_SCOPE,
    Reason.REMOTE,
    Reason.NO_PEER,
    Reason.PEER_OUT_OF_SCOPE,
    Reason.MPTCP,
    Reason.MAP_FULL,
    Reason.FOREIGN_OWNER,
    Reason.KERNEL,
    Reason.DEFERRED_ACCEPT,
    Reason.POLICY_SPLICE,
    Reason.POLICY_FIONREAD,
    Reason.POLICY_BLOCKING,
    Reason.POLICY_UNUSUAL,
    Reason.POLICY_USER,
    Reason.POLICY_UNKNOWN,
]
PER_MESSAGE = [
    Reason.BACK_PRESSURE,
    Reason.UNREAD_TCP,
    Reason.SMALL_WRITES,
    Reason.DISABLED,
    Reason.ULP,
    Reason.SHARED_WRITERS,
    Reason.CONNTRACK,
    Reason.ZEROCOPY,
]


def closed(**values: int) -> list[int]:
    sums = [0] * COUNTER_SLOTS
    for name, value in values.items():
        index = Counter[name] if name in Counter.__members__ else Counter.REASON + Reason[name]
        sums[index] = value
    return sums


def live(
    reasons: dict[Reason, int] | None = None, state: int = 1, tcp: int = 0, **values: Any
) -> ConnRecord:
    """Return what the iterator says; tcp: how far write_seq has moved, all acknowledged."""
    made = ConnRecord(conn=Conn(**values), state=state, bytes_acked=tcp)
    made.write_seq = (made.conn.key.local_seq + tcp) & 0xFFFFFFFF
    for reason, count in (reasons or {}).items():
        made.conn.reasons[PER_MESSAGE.index(reason)] = count
    return made


def test_every_reason_is_counted_in_one_way() -> None:
    assert [Reason.NONE, *PER_CONNECTION, *PER_MESSAGE] == list(Reason)
    assert [reason for reason in Reason if reason.per_message] == PER_MESSAGE


def test_nothing_is_nothing() -> None:
    assert total(closed(), []) == Counters()


def test_every_sum_is_found_under_its_name() -> None:
    assert total(
        closed(
            PAIRED=1,
            UNPAIRED=2,
            REDIRECTED_BYTES=3,
            REDIRECTED_MESSAGES=4,
            TCP_BYTES=5,
            TCP_MESSAGES=6,
        ),
        [],
    ) == Counters(1, 2, 3, 4, 5, 6, {})


def test_what_live_connections_moved_is_added() -> None:
    sums = closed(
        PAIRED=9, REDIRECTED_BYTES=1000, REDIRECTED_MESSAGES=100, TCP_BYTES=50, TCP_MESSAGES=5
    )
    first = live(redirected_bytes=1 << 40, redirected_messages=1, tcp=7, tcp_messages=3)
    second = live(redirected_bytes=2, redirected_messages=2, tcp=11, tcp_messages=1)
    second.write_seq += 4  # not acknowledged yet
    third = live(tcp=1, state=4)  # only a FIN
    fourth = live(key=PairKey(0xFFFFFFFF, 1), tcp=1 << 33)  # kept on TCP, past its numbers
    assert total(sums, iter([first, second, third, fourth])) == Counters(
        connections_paired=9,
        redirected_bytes=1000 + (1 << 40) + 2,
        redirected_messages=103,
        tcp_bytes=50 + 7 + 15 + (1 << 33),
        tcp_messages=9,
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_a_reason_has_its_label_and_its_count(reason: Reason) -> None:
    assert total(closed(**{reason.name: 3}), []).fallbacks == {reason.label: 3}


@pytest.mark.parametrize("reason", PER_MESSAGE)
def test_messages_of_live_connections_are_added_to_their_reason(reason: Reason) -> None:
    sums = closed(**{reason.name: 3})
    assert total(sums, [live({reason: 4}), live({reason: 5})]).fallbacks == {reason.label: 12}


@pytest.mark.parametrize("reason", PER_CONNECTION)
def test_live_connections_are_not_added_to_a_count_of_connections(reason: Reason) -> None:
    ends = [live(refused=reason, last_reason=reason, tcp_messages=4) for _ in range(2)]
    assert total(closed(**{reason.name: 3}), ends).fallbacks == {reason.label: 3}


def test_messages_that_were_redirected_are_no_fallback() -> None:
    assert total(closed(), [live(redirected_messages=5)]).fallbacks == {}


def test_slots_that_have_no_reason_yet_are_passed_over() -> None:
    made = live()
    made.conn.reasons[:] = [1] * MESSAGE_REASONS
    assert total([1] * COUNTER_SLOTS, [made]).fallbacks == {
        **{reason.label: 1 for reason in PER_CONNECTION},
        **{reason.label: 2 for reason in PER_MESSAGE},
    }


def test_nothing_pinned_is_inactive_and_says_what_drains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = status.Loaded(7, 6, 2, redirecting=True)
    monkeypatch.setattr(status.state, "draining", lambda _: [left])
    assert status.read(tmp_path / "none") == Status(active=False, draining=(left,))
    assert status.read(tmp_path) == Status(active=False, draining=(left,))


def test_who_may_not_ask_what_drains_is_told_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(status.state, "draining", refuse)
    assert status.read(tmp_path / "none") == Status(active=False)


def test_a_directory_of_somebody_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with pytest.raises(StateError, match="'theirs'"):
        status.read(tmp_path)
