"""Every key of the configuration: its kind, its default as one would write it, and what it means.

The defaults are text ("5s") and go through the same reader as the file, so that this module, the JSON Schema
and the commented `config/sidecar.yaml` state them in one form. Durations become seconds, sizes become bytes, ratios
parts of 1. The policies stand in `policies`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sidecar.config.addresses import upstream_hosts
from sidecar.config.fields import (
    Boolean,
    CandidateName,
    DependencyName,
    Host,
    ListenAddress,
    OptionalListenAddress,
    OptionalPrefix,
    OptionalSeconds,
    RatioOrNone,
    Seconds,
    TrustedNetwork,
    Upstreams,
    choice,
    count,
    duration,
    filled_in,
    optional,
    size,
)
from sidecar.config.policies import (
    Candidate,
    CircuitBreaker,
    Concurrency,
    Ejection,
    Fallback,
    Queue,
    RateLimit,
    Retry,
)
from sidecar.config.section import FREE_KEYS, LONGEST_LIST, Section, key
from sidecar.config.tls import ListenerTls, Tls

MOST_DEPENDENCIES = 1000
# Each is a whole simulation at every request.
MOST_CANDIDATES = 8
MOST_BUCKETS = 30

MIB = 1 << 20

# Fields that are no keys: `Config` sets them.
FILLED_IN = ("name",)

_logged = choice("rejected", "4xx", "5xx", "slow")


class Listener(Section):
    """How connections from applications are treated."""

    forwarded: Annotated[Literal["append", "replace", "off"], choice("append", "replace", "off")] = key(
        "append",
        "X-Forwarded-For, -Proto and -Host towards the upstream: append to those of trusted peers, replace "
        "them always, or off (add none). Those of untrusted peers are dropped in any case.",
    )
    trusted_proxies: tuple[TrustedNetwork, ...] = key(
        ["127.0.0.0/8", "::1/128"],
        "Networks whose forwarding headers are believed. The peer of a Unix socket counts as loopback.",
        max_length=LONGEST_LIST,
    )
    tls: ListenerTls = key(ListenerTls, "TLS from applications.")
    max_connections: Annotated[int, count(1, 1_000_000)] = key(16384, "Connections from applications at once.")
    backlog: Annotated[int, count(1, 65535)] = key(1024, "Connections that the kernel holds until they are accepted.")
    head_timeout: Seconds = key("10s", "Longest wait for a whole request head, from its first byte.")
    body_timeout: Seconds = key("30s", "Longest wait for the next bytes of a request body.")
    keepalive_timeout: Seconds = key("75s", "Longest time a connection may idle between two requests.")
    max_request_line: Annotated[int, size(64, MIB)] = key("16KiB", "Longest request line; beyond it 414.")
    max_header: Annotated[int, size(64, MIB)] = key("16KiB", "Longest single header line; beyond it 431.")
    max_headers: Annotated[int, size(64, 16 * MIB)] = key("64KiB", "Largest request head as a whole; beyond it 431.")
    max_header_count: Annotated[int, count(1, 10_000)] = key(200, "Most header lines in a request; beyond it 431.")
    max_read_ahead: Annotated[int, size(64, 16 * MIB)] = key(
        "64KiB", "Most bytes of pipelined requests read ahead while one is being answered."
    )
    allow_half_close: Boolean = key(
        False, "Answer a client that has closed its sending side, instead of taking that for its leaving."
    )


class Metrics(Section):
    """The read-only port: /metrics, /livez and /readyz."""

    listen: ListenAddress = key("127.0.0.1:21090", 'Address of the read-only port; ":21090" is all interfaces.')
    buckets: tuple[Seconds, ...] = key(
        ["1ms", "2.5ms", "5ms", "10ms", "25ms", "50ms", "100ms", "250ms", "500ms", "1s", "2.5s", "5s", "10s", "30s"],
        "Upper bounds of the buckets of every histogram of durations, increasing.",
        min_length=1,
        max_length=MOST_BUCKETS,
    )


class AccessLog(Section):
    """Which requests leave a line in the log."""

    sample: RatioOrNone = key("1%", "Share of all requests, taken at random.")
    always: tuple[Annotated[Literal["rejected", "4xx", "5xx", "slow"], _logged], ...] = key(
        ["rejected", "5xx", "slow"],
        "What is logged beside the sample: rejected (by the sidecar itself), 4xx and 5xx (by status), slow.",
        max_length=LONGEST_LIST,
    )
    slow: Seconds = key("1s", "A request that takes this long is slow.")
    max_per_second: Annotated[int, count(1, 1_000_000)] = key(
        1000, "Lines a second at most; how many requests went without is told in a line of its own."
    )


class Timeout(Section):
    """How long each part of a request to the upstream may take."""

    connect: Seconds = key("1s", "Longest time to open a connection to an address of the upstream, TLS included.")
    first_byte: Seconds = key("5s", "From the last byte of the request to the final response head.")
    idle: Seconds = key("60s", "Longest standstill, in each direction, once the response head has come.")
    total: Seconds = key("15s", "From the head of the request to the final response head, waits included.")
    tunnel: Seconds = key(
        "5m", "Longest standstill of a tunnel (CONNECT, WebSocket), with no octet in either direction."
    )


class Pool(Section):
    """The connections kept open to an upstream."""

    max_connections: Annotated[int, count(1, 65535)] = key(1024, "Connections to the upstream at once, in use or idle.")
    max_idle: Annotated[int, count(0, 65535)] = key(128, "Idle connections kept for reuse; 0 keeps none.")
    # Below the 5 s after which uvicorn and Node close an idle connection, so that a POST rarely meets a dying
    # one.
    idle_timeout: Seconds = key("4s", "Longest time an idle connection is kept; stay below the upstream's own limit.")
    max_age: Seconds = key("10m", "Age at which a connection is no longer reused; what is behind it may have changed.")


class Defaults(Section):
    """The keys of a dependency that `defaults` may set for all of them."""

    strip_prefix: Boolean = key(True, "Take the prefix off the path before forwarding.")
    preserve_host: Boolean = key(False, "Forward the client's Host header instead of the upstream's own.")
    max_body: Annotated[int | None, optional(size(0, 1 << 40))] = key(
        None, "Largest request body; beyond it 413. Null is no limit."
    )
    max_response_head: Annotated[int, size(64, 16 * MIB)] = key("64KiB", "Largest response head; beyond it 502.")
    timeout: Timeout = key(Timeout, "How long each part of a request to the upstream may take.")
    pool: Pool = key(Pool, "The connections kept open to the upstream.")
    max_tunnels: Annotated[int, count(0, 65535)] = key(
        100, "Tunnels (CONNECT, WebSocket) at once. 0: none; requests go on without Upgrade, CONNECT is refused."
    )
    tls: Tls = key(Tls, "TLS to https:// upstreams.")
    dns_refresh: Annotated[float, duration(0.1, 3600)] = key(
        "5s", "How often the name of an upstream is looked up again, 100ms to 1h."
    )
    ejection: Ejection = key(Ejection, "When to leave single addresses of a dependency out.")
    rate_limit: RateLimit = key(RateLimit, "How many requests begin in a time.")
    concurrency: Concurrency = key(Concurrency, "How many requests are under way at once.")
    queue: Queue = key(Queue, "Where requests wait for a token of `rate_limit` or a slot of `concurrency`.")
    circuit_breaker: CircuitBreaker = key(CircuitBreaker, "When to stop asking a dependency that fails.")
    retry: Retry = key(Retry, "When to ask again.")
    fallback: Fallback = key(Fallback, "A fixed answer in place of a refusal.")
    candidates: Annotated[dict[CandidateName, Candidate], FREE_KEYS] = key(
        {}, "Other terms, by name, simulated beside those in force.", max_length=MOST_CANDIDATES
    )
    expected_latency: OptionalSeconds = key(
        None, "How long the dependency usually takes: for a warning where concurrency.limit is too low for that."
    )


class Dependency(Defaults):
    """One dependency of the application: where it is, how it is reached through the sidecar, and its
    limits."""

    name: Annotated[str, filled_in()] = Field("", description="The key of the dependency; filled in by `Config`.")
    upstream: Upstreams = Field(
        description="Where the dependency is: http://host[:port], https://host[:port] or unix:/path; or a list of "
        "these, all https or none."
    )
    listen: OptionalListenAddress = key(
        None, "A port or unix:/path of its own, on which every request goes to this dependency."
    )
    listener: Listener = key(
        Listener,
        "Settings for the port of its own; what is not named here comes from the top-level listener.",
    )
    hosts: tuple[Host, ...] = key(
        lambda: (),
        "Hosts that select this dependency on the shared port, as name (any port) or name:port. Default: "
        "host:port of each upstream, unless another dependency has the same.",
        max_length=LONGEST_LIST,
    )
    prefix: OptionalPrefix = key(None, "Path prefix that selects this dependency on the shared port, as in /payments.")

    @property
    def is_https(self) -> bool:
        """Whether TLS is spoken to it; a list that is mixed counts, and is a mistake of its own."""
        return any(upstream.scheme == "https" for upstream in self.upstream)


class Config(Section):
    """The whole configuration."""

    listen: OptionalListenAddress = key(
        "127.0.0.1:21080", "The shared port, which selects a dependency by host or path. Null: there is none."
    )
    listener: Listener = key(Listener, "Settings for every port that takes an application's requests.")
    metrics: Metrics = key(Metrics, "The read-only port: /metrics, /livez and /readyz.")
    access_log: AccessLog = key(AccessLog, "Which requests leave a line in the log.")
    drain_idle: Seconds = key("1s", "When stopping: serve on until no request has come for this long.")
    drain_timeout: Seconds = key("25s", "When stopping: longest time to serve on.")
    defaults: Defaults = key(Defaults, "Keys merged, at any depth, under every dependency.")
    dependencies: Annotated[dict[DependencyName, Dependency], FREE_KEYS] = Field(
        description="The dependencies of the application, by name.", max_length=MOST_DEPENDENCIES
    )

    @field_validator("dependencies", mode="after")
    @classmethod
    def _fill_in(cls, dependencies: dict[str, Dependency]) -> dict[str, Dependency]:
        """Give each dependency its name, and the hosts of its upstreams where it names no hosts itself.

        A host belongs to one dependency: one named in the file keeps it, and of several that would merely
        default to it none gets it, since none has a better claim."""
        defaults = {
            name: upstream_hosts(dependency.upstream)
            for name, dependency in dependencies.items()
            if "hosts" not in dependency.model_fields_set
        }
        claims = Counter(host for hosts in defaults.values() for host in hosts)
        claims.update(host for dependency in dependencies.values() for host in set(dependency.hosts))
        filled = {}
        for name, dependency in dependencies.items():
            own = tuple(host for host in defaults.get(name, ()) if claims[host] == 1)
            filled[name] = dependency.model_copy(update={"name": name, "hosts": own or dependency.hosts})
        return filled
