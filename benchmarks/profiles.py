"""What the proxies are asked to do besides forwarding."""

from __future__ import annotations

from dataclasses import dataclass


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
    """A named set of policies; `policies` is None where a peer keeps whatever it does by default."""

    name: str
    policies: Policies | None = None


BARE = Profile("bare")
POLICIES = Profile("policies", Policies())

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (BARE, POLICIES)}
