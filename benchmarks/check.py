"""Plain requests before a run: is this a proxy, and does it tell the truth?"""

from __future__ import annotations

import http.client
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.configs import BODY_FILE_HEADER, CIPHER_SUITE, PROBE_HEADER, SEEN_HEADER, UPLOAD_PATH, Upstream
from benchmarks.workloads import TRACEPARENT, Workload


class CheckError(Exception):
    """An answer is not what the upstream would have said, or did not come the way it should."""


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    seen: list[str]
    body_file: str
    will_close: bool


def _ask(connection: http.client.HTTPConnection, workload: Workload, path: str) -> _Answer:
    nonce = secrets.token_hex(8)
    headers = {**workload.headers(), PROBE_HEADER: nonce}
    try:
        connection.request(workload.method, path, body=workload.body or None, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CheckError(f"{workload.method} {path}: {type(error).__name__}: {error}") from error
    if response.status != 200:
        raise CheckError(f"{workload.method} {path}: status {response.status}")
    seen = response.getheader(SEEN_HEADER, "").split(" ")
    if path != UPLOAD_PATH and seen[0] != nonce:
        raise CheckError(f"{workload.method} {path}: the upstream did not see this request")
    return _Answer(body, seen[1:], response.getheader(BODY_FILE_HEADER, ""), response.will_close)


def _connect(port: int, upstream: Upstream | None) -> http.client.HTTPConnection:
    """A connection to a proxy, or to the upstream, which may speak TLS."""
    context = None if upstream is None else upstream.context()
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)


def check(workload: Workload, port: int, upstream: Upstream, proxy_ports: Callable[[], set[int]] | None) -> None:
    """Sends a few plain requests through the proxy and compares them with the direct answer.

    Checked: status 200; the body octet by octet; that the upstream saw this very request, with its headers,
    over HTTP/1.1, from a port that belongs to the proxy's process; keep-alive on both sides, or, where the
    upstream closes, a connection for each request; over TLS, its version and cipher suite, and that no session was
    resumed; for a workload with a body, that the upstream got its every octet.

    Args:
        workload: What to send.
        port: The proxy's port on the loopback.
        upstream: What it forwards to.
        proxy_ports: The local ports of the proxy's connections; None where there is no proxy between.

    Raises:
        CheckError: The first thing that is wrong.
    """
    direct_connection = _connect(upstream.port, upstream)
    connection = _connect(port, upstream if proxy_ports is None else None)
    tls_wanted = "//" if upstream.trust is None else f"TLSv1.3/{CIPHER_SUITE}/."
    try:
        direct = _ask(direct_connection, workload, workload.path)
        if len(direct.body) != workload.answer_bytes:
            raise CheckError(f"the upstream itself answers {len(direct.body)} bytes")
        # An answer can be here before its upstream connection is in the pool again: a few tries find it.
        reused = False
        for _ in range(5):
            answer = _ask(connection, workload, workload.path)
            if answer.body != direct.body:
                raise CheckError(f"body differs: {len(answer.body)} bytes, direct {len(direct.body)}")
            if answer.will_close and (proxy_ports is not None or not workload.upstream_closes):
                raise CheckError("the proxy closes the client's connection")
            port_seen, requests_seen, protocol, traceparent, tls = answer.seen
            if protocol != "HTTP/1.1" or traceparent != TRACEPARENT:
                raise CheckError(f"the upstream saw {protocol}, traceparent {traceparent!r}")
            if tls != tls_wanted:
                raise CheckError(f"the upstream saw TLS {tls}, not {tls_wanted}")
            # A connection that the upstream has closed is nobody's any more.
            closed = workload.upstream_closes
            if proxy_ports is not None and not closed and int(port_seen) not in proxy_ports():
                raise CheckError("the upstream's connection is not the proxy's")
            reused = reused or int(requests_seen) > 1
        if not reused and not workload.upstream_closes:
            raise CheckError("the proxy opens an upstream connection per request")
        if workload.body:
            _check_upload(connection, workload)
    finally:
        direct_connection.close()
        connection.close()


def _check_upload(connection: http.client.HTTPConnection, workload: Workload) -> None:
    file = Path(_ask(connection, workload, UPLOAD_PATH).body_file)
    if not file.is_file() or file.read_bytes() != workload.body:
        raise CheckError("the upstream did not get the request body as it was sent")
    file.unlink()
