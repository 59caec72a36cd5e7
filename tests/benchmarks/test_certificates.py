"""The one trust that the upstream's certificate passes, and those that it must not pass."""

from __future__ import annotations

import ssl

import pytest

from benchmarks.certificates import Certificates, Trust
from tests.e2e.harness import need


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    need("openssl")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


def shake_hands(certificates: Certificates, trust: Trust) -> ssl.SSLObject:
    """A handshake in memory; the client's side of it."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificates.certificate, certificates.key)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_context = ssl.create_default_context(cafile=trust.ca_file)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=trust.name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    return client


def test_the_trust_lets_it_pass(certificates) -> None:
    assert shake_hands(certificates, certificates.trust).version() == "TLSv1.3"


def test_its_address_passes_too(certificates) -> None:
    assert shake_hands(certificates, Trust(certificates.trust.ca_file, "127.0.0.1"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [("of an unknown CA", "unable to get local issuer certificate"), ("for another name", "Hostname mismatch")],
)
def test_no_distrust_lets_it_pass(certificates, wrong: str, reason: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        shake_hands(certificates, certificates.distrust[wrong])


def test_every_distrust_is_tested(certificates) -> None:
    assert certificates.distrust.keys() == {"of an unknown CA", "for another name"}
