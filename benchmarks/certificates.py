"""The certificate of an upstream that speaks TLS, and what a proxy must and must not believe of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "localhost"

# P-256 for all keys. A CA beside the certificate, since verifying a chain is part of what a handshake costs.
_OPENSSL = f"""
[req]
distinguished_name = subject
[subject]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:{NAME}, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class CertificateError(Exception):
    """The certificates could not be made."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What the upstream's certificate is verified against.

    Attributes:
        ca_file: PEM file of the one CA that is believed.
        name: The name that the certificate must be for, and the SNI.
    """

    ca_file: Path
    name: str


@dataclass(frozen=True, slots=True)
class Certificates:
    """A server's certificate and key in PEM files, with the one trust that it deserves and others that it does not.

    Attributes:
        certificate: For `localhost` and 127.0.0.1.
        key: Its private key.
        trust: What lets it pass.
        distrust: What must not let it pass, by what is wrong with the certificate then.
    """

    certificate: Path
    key: Path
    trust: Trust
    distrust: dict[str, Trust]

    @staticmethod
    def make(folder: Path) -> Certificates:
        """Makes them with the `openssl` command (3.0 or newer); valid for two days.

        Args:
            folder: An existing folder for the files.

        Raises:
            CertificateError: It is not installed, or failed.
        """
        config = folder / "openssl.cnf"
        config.write_text(_OPENSSL)

        def make(name: str, subject: str, section: str, *issuer: str) -> tuple[Path, Path]:
            certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
            _openssl(
                *("req", "-x509", "-config", str(config), "-extensions", section, "-subj", f"/CN={subject}"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", *issuer),
                *("-keyout", str(key), "-out", str(certificate)),
            )
            return certificate, key

        ca, ca_key = make("ca", "benchmark CA", "ca")
        another_ca, _ = make("another-ca", "another CA", "ca")
        certificate, key = make("server", NAME, "server", "-CA", str(ca), "-CAkey", str(ca_key))
        return Certificates(
            certificate,
            key,
            Trust(ca, NAME),
            {
                "of an unknown CA": Trust(another_ca, NAME),
                "for another name": Trust(ca, f"another.{NAME}"),
            },
        )


def _openssl(*arguments: str) -> None:
    try:
        done = subprocess.run(("openssl", *arguments), capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        raise CertificateError("openssl is not installed (apt: openssl)") from None
    if done.returncode != 0:
        raise CertificateError(f"openssl {arguments[0]}: {done.stderr.strip()[-300:]}")
