"""What the proxies are asked to do besides forwarding, and with what they are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workloads import HANDSHAKE, LARGE_GET, LATENCY, POST, SMALL_GET, Workload


@dataclass(frozen=True, slots=True)
class Policies:
    """Limits that every request is checked against and that no request of the benchmark reaches.

    Attributes:
        rate_per_second: Token-bucket rate; the burst is one second's worth.
        concurrency: Requests in flight at once.
        consecutive_failures: Failures in a row that open the breaker or eject the host.
        open_for_s: Seconds until the breaker or the ejection lets a trial through.
        attempts: Attempts per request, the first included.
    """

    rate_per_second: int = 10_000_000
    concurrency: int = 1024
    consecutive_failures: int = 5
    open_for_s: int = 30
    attempts: int = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """One comparison.

    Attributes:
        name: What the command line and the JSON call it.
        policies: None where a peer keeps whatever it does by default.
        tls: Whether the upstream speaks TLS, which every proxy verifies; wrk speaks plainly to the proxy.
        workloads: What is sent unless the command line says otherwise.
        bases: Names of the peers that the others are divided by.
    """

    name: str
    policies: Policies | None = None
    tls: bool = False
    workloads: tuple[Workload, ...] = (SMALL_GET, LARGE_GET, POST, LATENCY)
    bases: tuple[str, ...] = ("envoy", "go")


BARE = Profile("bare")
POLICIES = Profile("policies", Policies())
TLS = Profile("tls", tls=True, workloads=(SMALL_GET, LARGE_GET, HANDSHAKE), bases=("envoy", "nginx"))

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (BARE, POLICIES, TLS)}
