"""TLS contexts that follow their files: certificates, keys and authorities are mounted secrets, which rotate.

A context is made anew when one of its files is another one, or has another content, than when it was last read; from
then on new connections use it. Those that exist go on as they are. Files that cannot be used, as half of a pair that is
just being replaced, are said so once, and what was good stays in force.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import ssl
from collections.abc import Callable
from typing import Final

from sidecar.config import ListenerTls, Tls
from sidecar.errors import Refusal, StartError, UpstreamFailure

log = logging.getLogger("sidecar.tls")

SHUTDOWN_S: Final = 3600.0
"""How long the end of a TLS connection may take for the event loop, which then drops what has yet to leave. Whoever
ends one has a deadline of its own, and tells who is slow to read from who does not."""

_Signature = tuple[tuple[int, int, int, int] | None, ...]

# Not the files' doing: the next second may bring what is wanted, though they do not change.
_OF_THE_MOMENT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})

# What Python puts around the words of OpenSSL.
_FRAME: Final = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")


class TlsContext:
    """A TLS context, and the files that it is made of.

    Args:
        key: of the configuration, for messages; such as `dependencies.payments.tls`.
        make: makes a context; raises OSError where it cannot (which `ssl.SSLError` is).
        paths: of the files that `make` reads.

    Attributes:
        context: for new connections.

    Raises:
        StartError: the files cannot be used to begin with.
    """

    def __init__(self, key: str, make: Callable[[], ssl.SSLContext], paths: tuple[str, ...]) -> None:
        self._key = key
        self._make = make
        self._paths = paths
        self._signature: _Signature | None = _signature(paths)  # of what was read last; None: read it again
        self._said: str | None = None
        try:
            self.context = make()
        except OSError as error:
            raise StartError(f"{key}: {_why(error, paths)}") from error

    def refresh(self) -> None:
        """Look at the files, and read them again if they have changed."""
        if not self._paths:
            return
        signature = _signature(self._paths)  # before they are read: what changes meanwhile is seen the next time
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self.context = self._make()
        except OSError as error:
            if error.errno in _OF_THE_MOMENT and not isinstance(error, ssl.SSLError):
                self._signature = None
            why = _why(error, self._paths)
            if why != self._said:
                self._said = why
                log.error("%s: %s; what was read before stays in force", self._key, why)  # noqa: TRY400
        else:
            self._said = None
            log.info("%s: its files have changed and were read again", self._key)


def upstream_context(key: str, keys: Tls) -> TlsContext:
    """What the sidecar trusts, and how it identifies itself, towards a dependency.

    Raises:
        StartError: a file cannot be used.
    """

    def make() -> ssl.SSLContext:
        context = _bare_context(ssl.PROTOCOL_TLS_CLIENT)  # which verifies, the name included
        if keys.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif keys.ca_file is not None:
            context.load_verify_locations(keys.ca_file)
        else:
            context.load_default_certs()
        if keys.cert is not None:
            context.load_cert_chain(keys.cert, keys.key, _no_password)
        return context

    return TlsContext(key, make, _paths(keys.ca_file, keys.cert, keys.key))


def listener_context(key: str, keys: ListenerTls) -> TlsContext | None:
    """How a port identifies itself to the application, and whom it lets in; None where it speaks plain HTTP.

    Raises:
        StartError: a file cannot be used.
    """
    if keys.cert is None:
        return None
    cert = keys.cert

    def make() -> ssl.SSLContext:
        context = _bare_context(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, keys.key, _no_password)
        if keys.client_ca is not None:
            context.load_verify_locations(keys.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return TlsContext(key, make, _paths(cert, keys.key, keys.client_ca))


def _bare_context(protocol: int) -> ssl.SSLContext:
    """What both sides have in common; not by `ssl.create_default_context`, which would heed SSLKEYLOGFILE."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_failure(dependency: str, error: ssl.SSLError) -> UpstreamFailure:
    """What a TLS error of a dependency's connection means (RFC 9209 sections 2.3.12 to 2.3.14)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = (getattr(error, "verify_message", None) or _reason(error)).rstrip(".")
        return UpstreamFailure(f"the certificate of {dependency} is not accepted: {reason}", "tls_certificate_error")
    reason = _reason(error)
    if reason.startswith(_ALERTS):
        hint = "; does it want a client certificate (tls.cert)?" if _MAY_WANT_CERTIFICATE & set(reason.split()) else ""
        return UpstreamFailure(f"{dependency} refused the TLS connection: {reason}{hint}", "tls_alert_received")
    hint = "; does it speak plain HTTP?" if "wrong version" in reason or "record layer" in reason else ""
    return UpstreamFailure(f"no TLS with {dependency} is possible: {reason}{hint}", "tls_protocol_error")


_ALERTS: Final = ("sslv3 alert ", "tlsv1 ", "tlsv13 ")  # that were received; not all of them say what they are
_MAY_WANT_CERTIFICATE: Final = {"certificate", "handshake"}


def _reason(error: ssl.SSLError) -> str:
    """The words of OpenSSL for what went wrong: its name for that, or a text where Python knows no name."""
    name: str | None = getattr(error, "reason", None)  # missing where it was not OpenSSL that failed
    if name:
        return name.replace("_", " ").lower()
    text = error.strerror or "".join(map(str, error.args[-1:]))
    return _FRAME.sub("", text) or "no reason given"


def is_tls(refusal: Refusal) -> bool:
    """Whether it was TLS that failed."""
    return refusal.proxy_error.startswith("tls_")


def _no_password() -> str:
    # Without this, OpenSSL would ask for it on the terminal, and wait.
    raise OSError("the private key has a password; give one without")


def _paths(*paths: str | None) -> tuple[str, ...]:
    return tuple(path for path in paths if path is not None)


def _signature(paths: tuple[str, ...]) -> _Signature:
    """What tells a file from the one that was there before: Kubernetes swaps a symlink in front of them all."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  once a second for each file
        except OSError:
            found.append(None)
        else:
            # When its inode changed, not when it was written: that covers who may read it, and cannot be set to what it
            # was, as tar and rsync do.
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))
    return tuple(found)


def _why(error: OSError, paths: tuple[str, ...]) -> str:
    files = ", ".join(paths) or "the authorities of the system"
    if isinstance(error, ssl.SSLError):
        reason = _reason(error)
        if "key values mismatch" in reason:
            return f"the private key does not belong to the certificate ({files})"
        if "pem lib" in reason:
            return f"what is needed is not in {files}: a certificate, or its private key, as PEM"
        return f"no TLS can be set up with {files}: {reason}"
    missing = next((path for path, status in zip(paths, _signature(paths), strict=True) if status is None), None)
    reason = error.strerror or str(error)
    return f"{missing or files} cannot be read: {reason}"
