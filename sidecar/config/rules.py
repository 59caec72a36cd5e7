"""What must hold between keys: every dependency can be reached, and nothing is claimed twice. And what is
merely odd. The rules of the policies stand in `policy_rules`, those of TLS in `tls_rules`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sidecar.config import policy_rules, tls_rules, units
from sidecar.config.addresses import Address, overlap, upstream_hosts
from sidecar.config.report import Path, Report, dotted, within
from sidecar.config.schema import Config, Dependency
from sidecar.config.source import Source

# Without one of these nothing can be said about how a dependency is reached.
_ROUTING = ("upstream", "listen", "hosts", "prefix")


def discarded(path: Path) -> Path:
    """The key to leave out, with all below it, when the value at `path` is wrong, to check the rest without
    echoes."""
    if path[0] == "dependencies" and (len(path) < 3 or path[2] in _ROUTING):
        return path[:2]
    # An item takes its list with it.
    return next((path[:depth] for depth, part in enumerate(path) if isinstance(part, int)), path)


def check(config: Config, source: Source, report: Report) -> None:
    """Put into `report` what is wrong between the keys of `config`, and, if nothing is wrong at all, the
    warnings.

    Keys that the report already names are taken to be left out of `config`; no rule speaks of them."""
    wrong = {discarded(path) for path in report.paths}
    if not config.dependencies and not any(path[0] == "dependencies" for path in wrong):
        path: Path = ("dependencies",)
        report.error(source.place(path), path, "must name at least one dependency, with its upstream")
    _check_routes(config, source, report)
    _check_addresses(config, source, report, wrong)
    _check_buckets(config, source, report)
    tls_rules.check(config, source, report, wrong)
    for name, dependency in config.dependencies.items():
        listener: Path = ("dependencies", name, "listener")
        if dependency.listen is None and source.has(listener):
            report.error(
                source.key_place(listener),
                listener,
                "is for a port of the dependency's own, and it has no listen; "
                "settings for the shared port go into listener at the top",
            )
        if dependency.listen is None and ("listen",) not in wrong:
            _check_reach(name, config, source, report)
        policy_rules.check(dependency, source, report, wrong)
    if not report.paths:
        _warn(config, source, report)


def _check_routes(config: Config, source: Source, report: Report) -> None:
    """A host and a prefix select one dependency."""
    claimed: dict[tuple[str, str], tuple[str, Path]] = {}
    for name, path, kind, value in _routes(config, source):
        owner, first = claimed.setdefault((kind, value), (name, path))
        if owner != name:
            message = f"{source.shown(path, value)} already selects {dotted(first[:2])} ({source.line(first)})"
            report.error(source.place(path), path, message)


def _routes(config: Config, source: Source) -> Iterator[tuple[str, Path, str, str]]:
    for name, dependency in config.dependencies.items():
        path: Path = ("dependencies", name)
        # A host that is merely the default is never claimed twice: `Config` sees to it.
        if source.has((*path, "hosts")):
            for number, host in enumerate(dependency.hosts):
                yield name, (*path, "hosts", number), "host", host
        if dependency.prefix is not None:
            yield name, (*path, "prefix"), "prefix", dependency.prefix


def _check_addresses(config: Config, source: Source, report: Report, wrong: set[Path]) -> None:
    """Every port can be bound beside the others."""
    claims: list[tuple[Path, Address | None]] = [(("listen",), config.listen)]
    claims.append((("metrics", "listen"), config.metrics.listen))
    claims += [(("dependencies", name, "listen"), each.listen) for name, each in config.dependencies.items()]
    taken: list[tuple[Path, Address]] = []
    # Those that are written come last and in the order of the file, for they are where something can be
    # changed.
    for path, address in sorted(claims, key=lambda claim: (source.has(claim[0]), source.place(claim[0]))):
        if address is None or within(path, wrong):
            continue
        for first, other in taken:
            if overlap(address, other):
                owner = f"{dotted(first)} ({source.line(first)})"
                message = f"{source.shown(path, str(address))} is already taken by {owner}"
                report.error(source.place(path), path, message)
                break
        taken.append((path, address))


def _check_buckets(config: Config, source: Source, report: Report) -> None:
    """Each bucket of a histogram holds more than the one before."""
    bounds = config.metrics.buckets
    for number, (lower, upper) in enumerate(pairwise(bounds), 1):
        if upper <= lower:
            path: Path = ("metrics", "buckets", number)
            found = source.shown(path, units.format_duration(upper))
            before = source.shown((*path[:-1], number - 1), units.format_duration(lower))
            report.error(source.place(path), path, f"must be above the one before it, {before}, found {found}")


def _check_reach(name: str, config: Config, source: Source, report: Report) -> None:
    """A dependency without a port of its own is selected by something on the shared port."""
    dependency = config.dependencies[name]
    if config.listen is None:
        message = "nothing can reach it: the shared port is off (listen: null), so it needs a listen of its own"
    elif dependency.hosts or dependency.prefix is not None:
        return
    else:
        rivals = [other for other in config.dependencies.values() if other is not dependency]
        rival = next((other for other in rivals if _same_host(dependency, other)), None)
        cause = f"the host of its upstream is also that of dependencies.{rival.name}" if rival else "nothing selects it"
        message = f"nothing can reach it: {cause}, so it needs a prefix, hosts or a listen of its own"
    path: Path = ("dependencies", name)
    report.error(source.key_place(path), path, message)


def _same_host(one: Dependency, other: Dependency) -> bool:
    """Whether `other` keeps `one` from being selected by the host of its upstream."""
    rivals = {*other.hosts, *upstream_hosts(other.upstream)}
    return not rivals.isdisjoint(upstream_hosts(one.upstream))


def _warn(config: Config, source: Source, report: Report) -> None:
    for name, dependency in config.dependencies.items():
        timeout, pool = dependency.timeout, dependency.pool
        path: Path = ("dependencies", name, "timeout", "total")
        if timeout.connect + timeout.first_byte > timeout.total:
            message = "is shorter than connect and first_byte together, so it may end a request before they do"
            report.warning(source.place(path), path, message)
        path = ("dependencies", name, "pool", "max_idle")
        # Only where it was asked for: who lowers max_connections alone means just that.
        if "max_idle" in pool.model_fields_set and pool.max_idle > pool.max_connections:
            report.warning(source.place(path), path, "is more than max_connections, so it is never reached")
    policy_rules.warn(config, source, report)
    tls_rules.warn(config, source, report)
