"""The programs that a scenario may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sockaccel.bench.workloads.http import LoadBalancer, WebServer, Wrk
from sockaccel.bench.workloads.postgres import PgBench, Postgres
from sockaccel.bench.workloads.redis import RedisBenchmark, RedisServer
from sockaccel.bench.workloads.sockets import SocketClient, SocketServer

if TYPE_CHECKING:
    from sockaccel.bench.workloads.base import Client, Server

SERVERS: dict[str, type[Server]] = {
    "nginx-balancer": LoadBalancer,
    "nginx-web": WebServer,
    "postgres": Postgres,
    "redis": RedisServer,
    "sockets": SocketServer,
}
CLIENTS: dict[str, type[Client]] = {
    "pgbench": PgBench,
    "redis-benchmark": RedisBenchmark,
    "sockets": SocketClient,
    "wrk": Wrk,
}
