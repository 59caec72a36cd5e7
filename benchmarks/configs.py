"""The configuration of each proxy and of the upstream, as text.

The aim is that each runs as its own documentation advises for a reverse proxy of one core: keep-alive on
both sides, no log line per request, no filter that the workloads do not need. Numbers that would end a
connection early (requests per connection, idle pools) are raised for all alike.
"""

from __future__ import annotations

import getpass
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.certificates import Certificates, Trust
from benchmarks.profiles import Policies, Profile
from benchmarks.workloads import HANDSHAKE, LARGE_SIZE_BYTES, POST_ANSWER, SMALL_BODY

# More than any run sends: a connection is never closed because of its age.
_REQUESTS_PER_CONNECTION = 1_000_000_000

PROBE_HEADER = "X-Bench-Probe"
SEEN_HEADER = "X-Bench-Seen"
BODY_FILE_HEADER = "X-Bench-Body-File"
UPLOAD_PATH = "/upload"

# The one cipher suite that the upstream takes, so that no proxy's preference decides what its bytes cost.
CIPHER_SUITE = "TLS_AES_128_GCM_SHA256"


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a proxy forwards to.

    Attributes:
        port: On the loopback.
        trust: What its certificate is verified against; None where it speaks plain HTTP.
    """

    port: int
    trust: Trust | None = None

    @property
    def scheme(self) -> str:
        """That of its URLs."""
        return "http" if self.trust is None else "https"

    def context(self) -> ssl.SSLContext | None:
        """For a client of the benchmark's own; None where it speaks plain HTTP."""
        return None if self.trust is None else ssl.create_default_context(cafile=self.trust.ca_file)


def _nginx_main(folder: Path) -> str:
    """The lines that the upstream and the nginx proxy share; all their files stay under `folder`."""
    # Started by root, the worker would become `nobody` and could not read the temporary folder.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    return f"""
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
"""


def _nginx_paths(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def upstream_nginx(folder: Path, port: int, certificates: Certificates | None = None) -> str:
    """The upstream: answers from memory and tells a probe who asked.

    `X-Bench-Seen` is sent only to a request that carries `X-Bench-Probe`: the probe's nonce, the port that
    the connection came from, its count of requests, the protocol, one of the eight request headers, and TLS
    version, cipher suite and whether the session was resumed (`//` over plain TCP). Measured requests do not
    pay for it. `/upload` keeps the request body in a file so that a test of the proxy can compare it octet by
    octet.

    Args:
        folder: An existing folder for its files; also gets the 1 MiB file.
        port: The loopback port to listen on.
        certificates: What to speak TLS with; None for plain HTTP.
    """
    seen = "$http_x_bench_probe $remote_port $connection_requests $server_protocol $http_traceparent"
    tls = "" if certificates is None else _upstream_tls(certificates)
    scheme = "http" if certificates is None else "https"
    large = folder / "large.bin"
    large.write_bytes((b"0123456789abcdef" * 64 * 1024)[:LARGE_SIZE_BYTES])
    return f"""{_nginx_main(folder)}
http {{
    {_nginx_paths(folder)}
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests {_REQUESTS_PER_CONNECTION};
    sendfile on;
    tcp_nopush on;
    open_file_cache max=8 inactive=1h;
    default_type application/json;
    map $http_x_bench_probe $bench_seen {{
        "" "";
        default "{seen} $ssl_protocol/$ssl_cipher/$ssl_session_reused";
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024{" ssl" if tls else ""};{tls}
        add_header {SEEN_HEADER} $bench_seen;
        location = /small {{ return 200 '{SMALL_BODY.decode()}'; }}
        location = {HANDSHAKE.path} {{
            keepalive_timeout 0;
            return 200 '{SMALL_BODY.decode()}';
        }}
        location = /post {{ return 200 '{POST_ANSWER.decode()}'; }}
        location = /large {{ alias {large}; default_type application/octet-stream; }}
        location = {UPLOAD_PATH} {{
            client_body_in_file_only on;
            add_header {BODY_FILE_HEADER} $request_body_file;
            proxy_pass {scheme}://127.0.0.1:{port}/post;
        }}
    }}
}}
"""


def _upstream_tls(certificates: Certificates) -> str:
    """One version, one cipher suite, one group, and no session that could be resumed: alike for every proxy."""
    return f"""
        ssl_certificate {certificates.certificate};
        ssl_certificate_key {certificates.key};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {CIPHER_SUITE};
        ssl_ecdh_curve X25519;
        ssl_session_cache off;
        ssl_session_tickets off;
        ssl_conf_command NumTickets 0;"""


def nginx(folder: Path, port: int, upstream: Upstream) -> str:
    """nginx as the proxy."""
    tls = "" if upstream.trust is None else _nginx_tls(upstream.trust)
    return f"""{_nginx_main(folder)}
http {{
    {_nginx_paths(folder)}
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests {_REQUESTS_PER_CONNECTION};
    upstream bench {{
        server 127.0.0.1:{upstream.port};
        # Idle connections kept: more than the 64 that a workload has in flight, so that none is reopened.
        keepalive 128;
        keepalive_requests {_REQUESTS_PER_CONNECTION};
        keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass {upstream.scheme}://bench;{tls}
            # Without these two nginx speaks HTTP/1.0 and closes each upstream connection.
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # An answer larger than the buffers would go through a file on disk; none of the others does that.
            proxy_max_temp_file_size 0;
            # Larger than the 4 KiB of the default: fewer system calls for the 1 MiB answer.
            proxy_buffers 8 32k;
            proxy_buffer_size 16k;
            proxy_busy_buffers_size 64k;
        }}
    }}
}}
"""


def _nginx_tls(trust: Trust) -> str:
    return f"""
            # By default nginx offers 1.2 at most before 1.23.4.
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_trusted_certificate {trust.ca_file};
            proxy_ssl_verify on;
            proxy_ssl_name {trust.name};
            proxy_ssl_server_name on;"""


def haproxy(port: int, upstream: Upstream) -> str:
    """HAProxy as the proxy."""
    tls = ""
    if upstream.trust is not None:
        ca_file, name = upstream.trust.ca_file, upstream.trust.name
        tls = f" ssl verify required ca-file {ca_file} verifyhost {name} sni str({name})"
    return f"""
global
    # One thread on one core, as every other peer.
    nbthread 1
    maxconn 4096
    # The soft stop would wait for wrk's connections.
    hard-stop-after 1s

defaults
    mode http
    # No `log` line: nothing is logged.
    timeout connect 1s
    timeout client 600s
    timeout server 60s
    timeout http-keep-alive 600s
    # Any idle connection may serve any request, as in nginx, Envoy and Go; the default keeps the first
    # request of a client to a fresh connection.
    http-reuse always
    # The 1 MiB answer moves through the kernel when HAProxy finds that worth it.
    option splice-auto

frontend front
    bind 127.0.0.1:{port} backlog 1024
    default_backend bench

backend bench
    # No limit to the idle pool (it is 64 connections), and no purge of it during a run.
    server upstream 127.0.0.1:{upstream.port}{tls} pool-max-conn -1 pool-purge-delay 600s
"""


def envoy(port: int, upstream: Upstream, profile: Profile) -> str:
    """Envoy as the proxy: JSON, which Envoy reads as it reads YAML.

    The counters that Envoy always keeps stay on, as the sidecar's do. There is no admin listener, no access
    log and, in the bare profile, no filter but the router.
    """
    policies = profile.policies
    route: dict[str, Any] = {"cluster": "bench"}
    cluster: dict[str, Any] = {
        "name": "bench",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "bench",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _envoy_address(upstream.port)}}]}],
        },
    }
    if upstream.trust is not None:
        cluster["transport_socket"] = _envoy_tls(upstream.trust)
    filters: list[dict[str, Any]] = []
    if policies is not None:
        filters.append(_envoy_rate_limit(policies))
        route["retry_policy"] = {
            "retry_on": "connect-failure,reset,retriable-status-codes",
            "retriable_status_codes": [502, 503, 504],
            "num_retries": policies.attempts - 1,
        }
        cluster["circuit_breakers"] = {
            "thresholds": [
                {
                    "max_connections": policies.concurrency,
                    "max_pending_requests": policies.concurrency,
                    "max_requests": policies.concurrency,
                }
            ]
        }
        cluster["outlier_detection"] = {
            "consecutive_5xx": policies.consecutive_failures,
            "base_ejection_time": f"{policies.open_for_s}s",
            "max_ejection_percent": 100,
        }
    filters.append(
        {
            "name": "envoy.filters.http.router",
            "typed_config": _envoy_type(
                "envoy.extensions.filters.http.router.v3.Router",
                # No x-envoy-* headers in requests and answers: nobody here reads them.
                suppress_envoy_headers=True,
            ),
        }
    )
    manager = _envoy_type(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        # Saves the protocol detection of AUTO.
        codec_type="HTTP1",
        # The client sends its own X-Request-Id; a random one per request is work that no other peer does.
        generate_request_id=False,
        http_filters=filters,
        route_config={
            "name": "bench",
            "virtual_hosts": [
                {"name": "bench", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
            ],
        },
    )
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "bench",
                    "address": _envoy_address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [cluster],
        }
    }
    return json.dumps(config, indent=1)


def _envoy_type(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def _envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_tls(trust: Trust) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": _envoy_type(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=trust.name,
            common_tls_context={
                # By default a client offers 1.2 at most. The group is the upstream's only one: a key share of
                # another, a post-quantum one perhaps, would be made in vain.
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
                "validation_context": {
                    "trusted_ca": {"filename": str(trust.ca_file)},
                    # Without this, any certificate of the CA passes.
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": trust.name}}],
                },
            },
        ),
    }


def _envoy_rate_limit(policies: Policies) -> dict[str, Any]:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": _envoy_type(
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="bench",
            token_bucket={
                "max_tokens": policies.rate_per_second,
                "tokens_per_fill": policies.rate_per_second,
                "fill_interval": "1s",
            },
            filter_enabled=always,
            filter_enforced=always,
        ),
    }


def sidecar(port: int, metrics_port: int, upstream: Upstream, profile: Profile) -> str:
    """The sidecar: its defaults (breaker and timeouts are on) and, in other profiles, the policies on top."""
    dependency: dict[str, Any] = {"upstream": f"{upstream.scheme}://127.0.0.1:{upstream.port}", "prefix": "/"}
    if upstream.trust is not None:
        dependency["tls"] = {"ca_file": str(upstream.trust.ca_file), "server_name": upstream.trust.name}
    policies = profile.policies
    if policies is not None:
        dependency["rate_limit"] = {
            "rate": f"{policies.rate_per_second}/second",
            "burst": policies.rate_per_second,
        }
        dependency["concurrency"] = {"limit": policies.concurrency}
        dependency["circuit_breaker"] = {
            "consecutive_failures": policies.consecutive_failures,
            "open_for": f"{policies.open_for_s}s",
        }
        dependency["retry"] = {"attempts": policies.attempts}
    config = {
        "listen": f"127.0.0.1:{port}",
        "metrics": {"listen": f"127.0.0.1:{metrics_port}"},
        "dependencies": {"bench": dependency},
    }
    return yaml.safe_dump(config, sort_keys=False)
