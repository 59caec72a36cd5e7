"""The keys of TLS, on either side.

The files that they name are read by whoever uses them, not here: a configuration may be checked where they do not
exist."""

from __future__ import annotations

# As a module: `key` is also the name of a key.
from sidecar.config import section
from sidecar.config.fields import Boolean, OptionalPemFile, OptionalServerName


class ListenerTls(section.Section):
    """TLS from applications."""

    cert: OptionalPemFile = section.key(None, "PEM file of the certificate, with its chain. Null: plain HTTP.")
    key: OptionalPemFile = section.key(None, "PEM file of its private key. Null: it is in the file of `cert`.")
    client_ca: OptionalPemFile = section.key(
        None, "PEM file of CAs; each client must have a certificate of one of them. Null: clients need none."
    )


class Tls(section.Section):
    """TLS to https:// upstreams."""

    ca_file: OptionalPemFile = section.key(None, "PEM file of the CAs that are trusted. Null: those of the system.")
    cert: OptionalPemFile = section.key(None, "PEM file of a client certificate, with its chain. Null: none is shown.")
    key: OptionalPemFile = section.key(None, "PEM file of its private key. Null: it is in the file of `cert`.")
    server_name: OptionalServerName = section.key(
        None, "The name asked for (SNI), for which the certificate must be. Null: the upstream's host."
    )
    insecure_skip_verify: Boolean = section.key(
        False, "Trust any certificate for any name, so that whoever is on the way can read and change everything."
    )
