"""What must hold between the keys of TLS and the upstreams, and what about them works but can hardly be meant.

The files are not looked at: whether a key belongs to a certificate is found out by whoever reads them."""

from __future__ import annotations

from collections.abc import Container

from sidecar.config.report import Path, Report, within
from sidecar.config.schema import Config, Dependency
from sidecar.config.source import Source
from sidecar.config.tls import ListenerTls, Tls


def check(config: Config, source: Source, report: Report, wrong: Container[Path]) -> None:
    """Put into `report` what cannot be between keys of TLS; nothing about keys in `wrong`."""
    if config.listen is not None:
        _check_certificate(("listener", "tls"), config.listener.tls, source, report, wrong)
    for name, dependency in config.dependencies.items():
        path: Path = ("dependencies", name)
        if dependency.listen is not None:
            _check_certificate((*path, "listener", "tls"), dependency.listener.tls, source, report, wrong)
        _check_upstreams((*path, "upstream"), dependency, source, report)
        tls = (*path, "tls")
        if dependency.is_https:
            _check_certificate(tls, dependency.tls, source, report, wrong)
        elif source.has(tls):
            # In the defaults it is for the dependencies that have a use for it.
            report.error(source.key_place(tls), tls, "is for https:// upstreams, and this one speaks plain HTTP")


def warn(config: Config, source: Source, report: Report) -> None:
    """Put into `report` what is odd about the TLS of a configuration without mistakes."""
    for name, dependency in config.dependencies.items():
        path: Path = ("dependencies", name)
        _warn_of_pair((*path, "listener", "tls"), dependency.listener.tls, source, report)
        if dependency.is_https:
            _warn_of_pair((*path, "tls"), dependency.tls, source, report)
            _warn_of_trust((*path, "tls"), dependency, source, report)


def _check_upstreams(path: Path, dependency: Dependency, source: Source, report: Report) -> None:
    """Each upstream stands once in its list, and all of them speak TLS or none."""
    first, *others = dependency.upstream
    mixed = False
    for number, upstream in enumerate(others, 1):
        at, found = (*path, number), source.shown((*path, number), str(upstream))
        same = dependency.upstream.index(upstream)
        if same < number:
            other = f"upstream[{same}] ({source.line((*path, same))})"
            report.error(source.place(at), at, f"must not be the same as {other}, found {found}")
        elif upstream.scheme != first.scheme and not mixed:
            # Said once: it may be the first that is wrong.
            mixed = True
            scheme = "https://" if first.scheme == "https" else "http:// or unix:/"
            message = f"must begin with {scheme}, as upstream[0] does ({source.line((*path, 0))}), found {found}"
            report.error(source.place(at), at, message)


def _check_certificate(
    path: Path, tls: Tls | ListenerTls, source: Source, report: Report, wrong: Container[Path]
) -> None:
    """What is of use beside a certificate alone has one."""
    cert = (*path, "cert")
    if tls.cert is not None or within(cert, wrong):
        return
    merged = []
    for name in ("key", "client_ca"):
        at = (*path, name)
        if getattr(tls, name, None) is None:
            continue
        if source.has(cert) and not source.has(at):
            merged.append(f"{name} ({source.line(at)})")
        else:
            report.error(source.place(at), at, "needs a cert beside it")
    if merged:
        # Where a certificate was taken away from what is merged with it.
        which = "both" if len(merged) > 1 else "that"
        message = f"must not be null beside {' and '.join(merged)}; set {which} to null as well"
        report.error(source.place(cert), cert, message)


def _warn_of_pair(path: Path, tls: Tls | ListenerTls, source: Source, report: Report) -> None:
    cert, key = (*path, "cert"), (*path, "key")
    if tls.cert is None or tls.key is None or source.has(cert) == source.has(key):
        return
    own, merged = (cert, key) if source.has(cert) else (key, cert)
    message = f"is used with the {merged[-1]} of {source.line(merged)}; name the one that belongs to it beside it"
    if merged == key:
        message += ", or key: null where that is in the file of cert"
    report.warning(source.place(own), own, message)


def _warn_of_trust(path: Path, dependency: Dependency, source: Source, report: Report) -> None:
    if not dependency.tls.insecure_skip_verify:
        return
    at = (*path, "insecure_skip_verify")
    # With the name, or the defaults would have one warning for all.
    message = (
        f"switches off the verification of the certificate of {dependency.name}: "
        "whoever is on the way can read and change everything"
    )
    report.warning(source.place(at), at, message)
    ca_file = (*path, "ca_file")
    # Those of the defaults are for the others where it is this dependency that trusts anybody.
    if dependency.tls.ca_file is not None and (source.has(ca_file) or not source.has(at)):
        report.warning(source.place(ca_file), ca_file, "has no effect while insecure_skip_verify is true")
