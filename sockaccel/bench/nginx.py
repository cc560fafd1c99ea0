"""nginx as web server and as load balancer: configurations as text, and the processes.

All that nginx writes is inside the directory it is given; nothing is read from
the distribution's configuration.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from sockaccel.bench.process import Child, find_tool, last_line
from sockaccel.errors import BenchError
from sockaccel.signals import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

START_TIMEOUT_S = 10.0
KEEPALIVE_CONNECTIONS = 128  # per worker process

_FRAME = """\
daemon off;
master_process on;
worker_processes {workers};
pid nginx.pid;
error_log error.log warn;
worker_rlimit_nofile 16384;
events {{
    worker_connections 4096;
}}
http {{
    default_type text/html;
    access_log off;
    # A run is not to contain the renewal of connections.
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{content}}}
"""

_WEB = """\
    sendfile {sendfile};
    tcp_nopush {sendfile};
    # What is measured is the network, not the file system.
    open_file_cache max=100;
    open_file_cache_valid 1h;
    server {{
        listen {address}:{port} backlog=4096;
        root "{root}";
    }}
"""

_LOAD_BALANCER = """\
    upstream servers {{
{servers}    }}
    server {{
        listen {address}:{port} backlog=4096;
        location / {{
            proxy_pass http://servers;
{proxy}        }}
    }}
"""

# What nginx needs to keep connections to the servers behind it.
_PROXY_KEEPALIVE = """\
            proxy_http_version 1.1;
            proxy_set_header Connection "";
"""


def web_config(
    address: str, root: Path, *, sendfile: bool = False, port: int = 80, workers: int = 1
) -> str:
    """Return the configuration of a server of static files.

    Without sendfile, as is nginx's own default, headers and a small page are one
    write. With it (and tcp_nopush, as distributions set both) they are two.
    """
    content = _WEB.format(
        address=address, port=port, root=root, sendfile="on" if sendfile else "off"
    )
    return _FRAME.format(workers=workers, content=content)


def load_balancer_config(
    address: str,
    servers: Sequence[str],
    *,
    keepalive: bool,
    port: int = 80,
    workers: int = 2,
) -> str:
    """Return the configuration of a load balancer in front of servers ("address:port")."""
    lines = [f"        server {server};\n" for server in servers]
    if keepalive:
        lines.append(f"        keepalive {KEEPALIVE_CONNECTIONS};\n")
        # What the frame says of this does not hold here, where 1000 is the default.
        lines.append("        keepalive_requests 1000000000;\n")
    content = _LOAD_BALANCER.format(
        address=address,
        port=port,
        servers="".join(lines),
        proxy=_PROXY_KEEPALIVE if keepalive else "",
    )
    return _FRAME.format(workers=workers, content=content)


class Nginx:
    """One nginx (master and workers) in a directory of its own.

    launch starts its command, for instance on a node of a topology.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        launch: Callable[[Sequence[str]], Child] = Child,
    ) -> None:
        self.directory = directory
        self._config = config
        self._launch = launch
        self._program = find_tool("nginx")
        self._child: Child | None = None

    def start(self) -> None:
        """Start it; return when its listening sockets accept connections."""
        self.directory.mkdir(exist_ok=True)
        # The workers are not root, and need to get through to their files.
        self.directory.chmod(0o755)
        (self.directory / "nginx.conf").write_text(self._config, encoding="ascii")
        # One that was killed has left its own.
        self._pid_file.unlink(missing_ok=True)
        prefix = f"{self.directory}/"
        argv = [self._program, "-p", prefix, "-c", "nginx.conf", "-e", "error.log"]
        with hold():
            self._child = child = self._launch(argv)
        # Written after nginx has opened its listening sockets.
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._pid_file.exists():
            if not child.running():
                done = child.wait(START_TIMEOUT_S)
                raise BenchError(f"cannot start nginx: {last_line(done.stderr, done.returncode)}")
            if time.monotonic() > deadline:
                raise BenchError(f"cannot start nginx: no pid file after {START_TIMEOUT_S:g} s")
            time.sleep(0.005)

    def stop(self) -> None:
        """End master and workers, and with them all their connections."""
        if self._child is not None:
            self._child.end(signal.SIGTERM)
            self._child = None

    @property
    def _pid_file(self) -> Path:
        return self.directory / "nginx.pid"


def write_page(root: Path, size: int) -> None:
    """Make root/index.html, a page of exactly size bytes."""
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    page = root / "index.html"
    page.write_bytes((b"sockaccel " * (size // 10 + 1))[:size])
    page.chmod(0o644)
