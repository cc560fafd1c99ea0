"""Whether servers that give up being root get to their files."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path


def closed_directory() -> Path | None:
    """Return a directory on the way to temporary files that keeps others out, if there is one.

    nginx's workers and PostgreSQL would wait before it, and their clients for them.
    """
    named = Path(tempfile.gettempdir()).absolute()
    # Both ways, where it is a link: what leads to the link, and to where that points.
    for path in (named, named.resolve()):
        for each in (*reversed(path.parents), path):
            if not each.stat().st_mode & stat.S_IXOTH:
                return each
    return None


def open_directory(root: Path, *names: str) -> Path:
    """Make a directory below another, which everybody may pass, whatever the umask."""
    path = root
    for name in names:
        path /= name
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    return path
