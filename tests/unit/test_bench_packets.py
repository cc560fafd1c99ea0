from __future__ import annotations

import pytest

from sockaccel.bench.packets import parse_netstat
from sockaccel.errors import BenchError

NETSTAT = """\
TcpExt: SyncookiesSent TCPSynRetrans TCPOrigDataSent TCPDelivered
TcpExt: 0 3 1234 77
IpExt: InNoRoutes InOctets
IpExt: 5 6
"""


def test_the_packets_with_data_are_found_by_name() -> None:
    assert parse_netstat(NETSTAT) == 1234


@pytest.mark.parametrize("text", ["", NETSTAT.replace("TCPOrigDataSent", "TCPOther")])
def test_a_kernel_that_does_not_count_them_is_an_error_and_not_none(text: str) -> None:
    with pytest.raises(BenchError, match="no TCPOrigDataSent"):
        parse_netstat(text)
