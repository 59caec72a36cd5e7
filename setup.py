"""Build the data plane as it is, or, with SIDECAR_COMPILE=1, compiled by mypyc from the same sources.

Everything else about the package stands in pyproject.toml. docs/decisions/0009-compiled-from-the-same-sources.md says
why; docs/explanation/performance.md what it brings.
"""

import os

from setuptools import setup

HOT_PATH = [
    "sidecar/counters.py",
    "sidecar/policy/breaker.py",
    "sidecar/policy/bucket.py",
    "sidecar/policy/candidate.py",
    "sidecar/policy/ejection.py",
    "sidecar/policy/gate.py",
    "sidecar/policy/queue.py",
    "sidecar/policy/slots.py",
    "sidecar/policy/states.py",
    "sidecar/policy/window.py",
    "sidecar/proxy/account.py",
    "sidecar/proxy/answers.py",
    "sidecar/proxy/attempt.py",
    "sidecar/proxy/chunked.py",
    "sidecar/proxy/dispatch.py",
    "sidecar/proxy/connect.py",
    "sidecar/proxy/dial.py",
    "sidecar/proxy/downstream.py",
    "sidecar/proxy/endpoint.py",
    "sidecar/proxy/exchange.py",
    "sidecar/proxy/fields.py",
    "sidecar/proxy/framing.py",
    "sidecar/proxy/handshake.py",
    "sidecar/proxy/headers.py",
    "sidecar/proxy/heads.py",
    "sidecar/proxy/held.py",
    "sidecar/proxy/listener.py",
    "sidecar/proxy/partial.py",
    "sidecar/proxy/pool.py",
    "sidecar/proxy/responder.py",
    "sidecar/proxy/retrying.py",
    "sidecar/proxy/routing.py",
    "sidecar/proxy/transports.py",
    "sidecar/proxy/tunnel.py",
    "sidecar/proxy/upstream.py",
    "sidecar/proxy/verdict.py",
    "sidecar/runtime/admission.py",
    "sidecar/runtime/deadlines.py",
    "sidecar/runtime/dependency.py",
    "sidecar/runtime/descriptors.py",
    "sidecar/telemetry/access.py",
    "sidecar/telemetry/sink.py",
]

if os.environ.get("SIDECAR_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify(HOT_PATH, opt_level="3", debug_level="0"))
else:
    setup()
