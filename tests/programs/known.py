"""Failures that `--policy all` is known to cause, each with its row in the table of hazards."""

from __future__ import annotations

from .results import Known

SPLICE = "splice() from a socket never sees redirected bytes"
KNOWN = [
    Known("HAProxy, splice", "*", "stalled*", "9", SPLICE),
    Known(
        "HAProxy, splice",
        "GET HTTP/1.0 until close*",
        "*the rest is missing*",
        "9",
        "after a FIN splice() answers end of stream while redirected bytes are unread",
    ),
    Known("HAProxy, TCP, splice-auto", "*", "stalled*", "9", SPLICE),
    Known("Go, io.Copy", "*", "stalled*", "9", SPLICE),
    Known("Python, os.splice", "*", "stalled*", "9", SPLICE),
    Known(
        "a blocking reader that takes signals",
        "works",
        "*then the connection ended",
        "10",
        "blocking recv() returns EAGAIN after a signal with SA_RESTART",
    ),
    Known(
        "test_asyncore",
        "test.test_asyncore.TestAPI_UseIPv?*.test_handle_expt",
        "*flag not set*",
        "11",
        "MSG_OOB arrives in band",
    ),
]
