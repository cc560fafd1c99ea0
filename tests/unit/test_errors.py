from __future__ import annotations

import errno

import pytest

from sockaccel.errors import reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOENT, "", "/x"), "no such file or directory (ENOENT)"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (TimeoutError("timed out"), "timed out"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_reason_of_an_error_is_its_number_or_else_its_text(
    error: OSError, expected: str
) -> None:
    assert reason(error) == expected
