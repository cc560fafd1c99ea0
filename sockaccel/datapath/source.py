"""The C text of the programs, put together for BCC.

BCC sees programs and map accesses only in the main text, so the files are
joined; ``#line`` makes its errors name the real file.
"""

from __future__ import annotations

from pathlib import Path

_FILES = (
    "layout.h",
    "maps.h",
    "common.h",
    "policy.h",
    "sock_ops.c",
    "sk_msg.c",
    "sk_skb.c",
    "reader.c",
    "iter.c",
)


def directory() -> Path:
    """Return the directory of the C sources: beside the package, or inside it once installed."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def assemble() -> str:
    """Return the one text that BCC compiles."""
    base = directory()
    return "".join(f'#line 1 "bpf/{name}"\n{(base / name).read_text()}' for name in _FILES)
