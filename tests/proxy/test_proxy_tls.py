"""TLS contexts: what they insist on, and that they follow their files."""

from __future__ import annotations

import datetime as dt
import errno
import logging
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from sidecar.config import ListenerTls, Tls
from sidecar.errors import StartError
from sidecar.policy.classify import End
from sidecar.proxy import tls, verdict
from sidecar.proxy.tls import TlsContext, is_tls, listener_context, tls_failure, upstream_context

KEY = "dependencies.payments.tls"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


class Files:
    """Certificate, key and CA as a mounted secret has them."""

    def __init__(self, folder: Path, ca: trustme.CA) -> None:
        self.folder = folder
        self._ca = ca
        self.cert, self.key, self.ca = (str(folder / name) for name in ("tls.crt", "tls.key", "ca.crt"))
        self.issue()
        ca.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, cert: bool = True, key: bool = True, **keys: Any) -> str:
        """Write another certificate, its key, or both; and say its serial number."""
        leaf = self._ca.issue_cert(*(names or ("payments",)), **keys)
        if key:
            leaf.private_key_pem.write_to_path(self.key)
        if cert:
            Path(self.cert).write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return serial(leaf.cert_chain_pems[0].bytes())

    @property
    def both(self) -> dict[str, str]:
        return {"cert": self.cert, "key": self.key}


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA) -> Files:
    return Files(tmp_path, ca)


def serial(pem: bytes) -> str:
    return format(x509.load_pem_x509_certificate(pem).serial_number, "X")


class Handshake:
    """A TLS handshake in memory, to its end or to the first error on each side.

    Attributes:
        errors: of the client and of the server, None where there was none.
    """

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = "payments") -> None:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(to_client, to_server, server_hostname=name)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        self.errors: list[ssl.SSLError | None] = [None, None]
        over = [False, False]
        for _ in range(10):
            for number, side in enumerate((self.client, self.server)):
                if self.errors[number] is not None:
                    continue
                try:
                    if not over[number]:
                        side.do_handshake()
                        over[number] = True
                    side.read(1)  # in TLS 1.3 the server looks at the client's certificate behind its end
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError as error:
                    self.errors[number] = error

    @property
    def served(self) -> str:
        """The serial number of the certificate that the server has shown."""
        assert self.errors == [None, None], self.errors
        certificate = self.client.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"]).lstrip("0")


def client_of(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


def server_of(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


def listener(files: Files, **keys: str | None) -> TlsContext:
    found = listener_context("listener.tls", ListenerTls(**({**files.both, "client_ca": None} | keys)))
    assert found is not None
    return found


def upstream(**keys: Any) -> TlsContext:
    return upstream_context(KEY, Tls(**keys))


# -- what a context insists on, towards a dependency


def test_certificate_of_a_trusted_authority_for_the_name_is_accepted(files: Files, ca: trustme.CA) -> None:
    shaken = Handshake(upstream(ca_file=files.ca).context, server_of(ca.issue_cert("payments")))
    assert shaken.errors == [None, None]


@pytest.mark.parametrize(
    ("issue", "name", "reason"),
    [
        (lambda ca: trustme.CA().issue_cert("payments"), "payments", "unable to get local issuer certificate"),
        (lambda ca: ca.issue_cert("other"), "payments", "Hostname mismatch, certificate is not valid for 'payments'"),
        (lambda ca: ca.issue_cert("*.payments"), "payments", "Hostname mismatch"),
        (lambda ca: ca.issue_cert("192.0.2.1"), "192.0.2.2", "IP address mismatch"),
        (
            lambda ca: ca.issue_cert("payments", not_after=dt.datetime(2020, 1, 2, tzinfo=dt.UTC)),
            "payments",
            "certificate has expired",
        ),
    ],
    ids=["unknown CA", "wrong name", "wildcard", "wrong address", "expired"],
)
def test_certificate_is_verified(files: Files, ca: trustme.CA, issue: Any, name: str, reason: str) -> None:
    shaken = Handshake(upstream(ca_file=files.ca).context, server_of(issue(ca)), name)
    error = shaken.errors[0]
    assert error is not None
    failure = tls_failure("payments", error)
    assert failure.proxy_error == "tls_certificate_error"
    assert failure.detail.startswith(f"the certificate of payments is not accepted: {reason}")
    assert not failure.detail.endswith(".")


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::1"])
def test_certificate_for_an_address_is_accepted_for_it(files: Files, ca: trustme.CA, name: str) -> None:
    assert Handshake(upstream(ca_file=files.ca).context, server_of(ca.issue_cert(name)), name).errors == [None, None]


@pytest.mark.parametrize("keys", [{}, {"ca": True}, {"cert": True}])
def test_verification_is_on(files: Files, keys: dict[str, bool]) -> None:
    context = upstream(**({"ca_file": files.ca} if "ca" in keys else files.both if keys else {})).context
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_without_a_ca_file_those_of_the_system_are_trusted_and_no_others(
    ca: trustme.CA, files: Files, monkeypatch
) -> None:
    server = server_of(ca.issue_cert("payments"))
    assert isinstance(Handshake(upstream().context, server).errors[0], ssl.SSLCertVerificationError)
    monkeypatch.setenv("SSL_CERT_FILE", files.ca)
    assert Handshake(upstream().context, server).errors == [None, None]
    other = server_of(trustme.CA().issue_cert("payments"))
    assert isinstance(Handshake(upstream().context, other).errors[0], ssl.SSLCertVerificationError)


def test_with_a_ca_file_those_of_the_system_are_not_trusted(ca: trustme.CA, files: Files, monkeypatch) -> None:
    mine = trustme.CA()
    mine.cert_pem.write_to_path(str(files.folder / "mine"))
    monkeypatch.setenv("SSL_CERT_FILE", files.ca)
    context = upstream(ca_file=str(files.folder / "mine")).context
    assert Handshake(context, server_of(mine.issue_cert("payments"))).errors == [None, None]
    shaken = Handshake(context, server_of(ca.issue_cert("payments")))
    assert isinstance(shaken.errors[0], ssl.SSLCertVerificationError)


def test_only_skipped_verification_accepts_anything() -> None:
    context = upstream(insecure_skip_verify=True).context
    assert Handshake(context, server_of(trustme.CA().issue_cert("other"))).errors == [None, None]


@pytest.mark.parametrize("with_key_file", [True, False])
def test_client_certificate_is_shown(files: Files, ca: trustme.CA, with_key_file: bool) -> None:
    server = server_of(ca.issue_cert("payments"))
    ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    keys = files.both
    if not with_key_file:
        keys = {"cert": files.cert}
        Path(files.cert).write_bytes(Path(files.key).read_bytes() + Path(files.cert).read_bytes())
    assert Handshake(upstream(ca_file=files.ca, **keys).context, server).errors == [None, None]
    error = Handshake(upstream(ca_file=files.ca).context, server).errors[0]
    assert error is not None
    failure = tls_failure("payments", error)
    assert failure.proxy_error == "tls_alert_received"
    assert failure.detail.endswith("does it want a client certificate (tls.cert)?")


# -- what a context insists on, towards an application


def test_listener_shows_its_certificate_and_asks_for_none(files: Files, ca: trustme.CA) -> None:
    expected = files.issue()
    shaken = Handshake(client_of(ca), listener(files).context)
    assert shaken.served == expected
    assert shaken.server.getpeercert() is None


def test_without_a_certificate_there_is_no_context() -> None:
    assert listener_context("listener.tls", ListenerTls()) is None


def test_with_client_ca_only_its_clients_are_let_in(files: Files, ca: trustme.CA) -> None:
    theirs = trustme.CA()
    theirs.cert_pem.write_to_path(str(files.folder / "clients"))
    server = listener(files, client_ca=str(files.folder / "clients")).context
    outcomes = []
    for issuer in (theirs, ca, None):
        client = client_of(ca)
        if issuer is not None:
            issuer.issue_cert("app").configure_cert(client)
        outcomes.append(Handshake(client, server).errors[1])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], ssl.SSLCertVerificationError)
    assert outcomes[2] is not None
    assert outcomes[2].reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


# -- towards both


def _contexts(files: Files) -> list[ssl.SSLContext]:
    return [
        upstream(ca_file=files.ca).context,
        upstream(insecure_skip_verify=True).context,
        listener(files).context,
        listener(files, client_ca=files.ca).context,
    ]


def test_tls_1_2_is_the_floor(files: Files, ca: trustme.CA) -> None:
    for context in _contexts(files):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    client, server = client_of(ca), server_of(ca.issue_cert("payments"))
    for old in (client, server):
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert Handshake(client, server).client.version() == "TLSv1.1"
    assert None not in Handshake(upstream(ca_file=files.ca).context, server).errors
    assert None not in Handshake(client, listener(files).context).errors


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(files: Files, ca: trustme.CA, version: ssl.TLSVersion) -> None:
    client, server = client_of(ca), server_of(ca.issue_cert("payments"))
    for other in (client, server):
        other.minimum_version = other.maximum_version = version
    for shaken in (
        Handshake(upstream(ca_file=files.ca).context, server),
        Handshake(client, listener(files).context),
    ):
        assert shaken.errors == [None, None]
        assert shaken.client.version() == version.name.replace("_", ".")


def test_http_1_1_is_agreed_on_where_the_other_side_asks(files: Files, ca: trustme.CA) -> None:
    client, server = client_of(ca), server_of(ca.issue_cert("payments"))
    for other in (client, server):
        other.set_alpn_protocols(["h2", "http/1.1"])
    for shaken in (Handshake(upstream(ca_file=files.ca).context, server), Handshake(client, listener(files).context)):
        assert shaken.client.selected_alpn_protocol() == "http/1.1"


def test_no_secrets_are_written_for_whoever_sets_a_variable(files: Files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))
    contexts = _contexts(files)
    assert Handshake(contexts[0], contexts[2]).errors == [None, None]
    assert [context.keylog_filename for context in contexts] == [None] * 4
    assert not (tmp_path / "secrets").exists()


# -- files that cannot be used at the start


def _refusal(make: Callable[[], object]) -> str:
    with pytest.raises(StartError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("which", ["cert", "key", "ca_file"])
def test_missing_file_is_named_with_its_key(files: Files, which: str) -> None:
    keys = files.both | {"ca_file": files.ca, which: "/nowhere/file.pem"}
    assert _refusal(lambda: upstream(**keys)) == f"{KEY}: /nowhere/file.pem cannot be read: No such file or directory"


@pytest.mark.parametrize("which", ["cert", "key", "client_ca"])
def test_missing_file_of_a_listener_is_named_with_its_key(files: Files, which: str) -> None:
    refusal = _refusal(lambda: listener(files, **({"client_ca": files.ca} | {which: "/nowhere/file.pem"})))
    assert refusal == "listener.tls: /nowhere/file.pem cannot be read: No such file or directory"


def test_file_that_must_not_be_read_is_named(files: Files) -> None:
    def make() -> ssl.SSLContext:  # as load_cert_chain does, but for root, who may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    refusal = _refusal(lambda: TlsContext(KEY, make, (files.cert, files.key)))
    assert refusal == f"{KEY}: {files.cert}, {files.key} cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("which", "content", "reason"),
    [
        ("cert", b"", "no TLS can be set up with {cert}, {key}: "),
        ("cert", b"garbage", "no TLS can be set up with {cert}, {key}: "),
        ("key", b"", "no TLS can be set up with {cert}, {key}: "),
        ("key", b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", "no TLS can be set up with "),
        ("ca", b"", "no TLS can be set up with {ca}: "),
        ("ca", b"garbage", "no TLS can be set up with {ca}: "),
    ],
)
def test_file_of_nonsense_is_named(files: Files, which: str, content: bytes, reason: str) -> None:
    Path(getattr(files, which)).write_bytes(content)
    refusal = _refusal(lambda: upstream(**({"ca_file": files.ca} if which == "ca" else files.both)))
    assert refusal.startswith(f"{KEY}: " + reason.format(cert=files.cert, key=files.key, ca=files.ca))
    assert not refusal.endswith(": ")


def test_folder_in_place_of_a_file_is_named(files: Files) -> None:
    assert str(files.folder) in _refusal(lambda: upstream(ca_file=str(files.folder)))


def test_key_of_another_certificate_is_said_to_be_one(files: Files) -> None:
    files.issue(cert=False)
    refusal = _refusal(lambda: listener(files))
    assert refusal == (f"listener.tls: the private key does not belong to the certificate ({files.cert}, {files.key})")


@pytest.mark.parametrize("side", ["upstream", "listener"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_key_with_a_password_is_an_error_and_nobody_is_asked_for_it(
    files: Files, side: str, form: PrivateFormat, capfd
) -> None:
    key = load_pem_private_key(Path(files.key).read_bytes(), None)
    Path(files.key).write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")))
    refusal = _refusal(lambda: upstream(**files.both) if side == "upstream" else listener(files))
    assert "the private key has a password; give one without" in refusal
    assert files.key in refusal
    assert capfd.readouterr() == ("", "")


def test_start_error_keeps_its_cause(files: Files) -> None:
    with pytest.raises(StartError) as caught:
        upstream(ca_file="/nowhere")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# -- files that change


@pytest.fixture
def said(caplog) -> Callable[[], list[tuple[str, str]]]:
    """What the log has said since."""
    caplog.set_level(logging.INFO, "sidecar.tls")

    def since() -> list[tuple[str, str]]:
        found = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return found

    return since


REREAD = ("INFO", "listener.tls: its files have changed and were read again")


def _failed(why: str) -> tuple[str, str]:
    return "ERROR", f"listener.tls: {why}; what was read before stays in force"


def test_nothing_is_read_while_nothing_changes(files: Files, said) -> None:
    made = []

    def make() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    context = TlsContext("k", make, (files.cert, files.key))
    for _ in range(10):
        context.refresh()
    assert (len(made), context.context, said()) == (1, made[0], [])
    os.utime(files.key, ns=(1, 1))
    for _ in range(10):
        context.refresh()
    assert (len(made), context.context) == (2, made[1])


def test_new_certificate_is_shown_to_new_connections_alone(files: Files, ca: trustme.CA, said) -> None:
    context = listener(files)
    before = context.context
    first = Handshake(client_of(ca), before)
    expected = files.issue()
    context.refresh()
    assert said() == [REREAD]
    assert Handshake(client_of(ca), context.context).served == expected != first.served
    first.server.write(b"still here")
    assert first.client.read(100) == b"still here"


def test_trust_follows_its_file(files: Files, ca: trustme.CA) -> None:
    context = upstream(ca_file=files.ca)
    mine = trustme.CA()
    mine.cert_pem.write_to_path(files.ca)
    context.refresh()
    assert Handshake(context.context, server_of(mine.issue_cert("payments"))).errors == [None, None]
    assert Handshake(context.context, server_of(ca.issue_cert("payments"))).errors[0] is not None


def test_secret_that_kubernetes_swaps_is_followed(tmp_path: Path, ca: trustme.CA, said) -> None:
    """A volume of a secret: files are links to ..data/file, and ..data a link that is replaced with one rename."""
    serials = []
    for number in range(3):
        (tmp_path / f"..{number}").mkdir()
        one = Files(tmp_path / f"..{number}", ca)
        serials.append(one.issue())
    for path in tmp_path.glob("..?/*"):
        os.utime(path, ns=(1, 1))  # of one second, and of one size
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    found = listener_context("listener.tls", ListenerTls(cert=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key")))
    assert found is not None
    for number in (0, 1, 2):
        (tmp_path / "..new").symlink_to(f"..{number}")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        shutil.rmtree(tmp_path / f"..{number - 1}", ignore_errors=True)
        found.refresh()
        found.refresh()
        assert Handshake(client_of(ca), found.context).served == serials[number]
    assert said() == [REREAD] * 2


def test_half_written_pair_keeps_the_old_one_and_is_said_once(files: Files, ca: trustme.CA, said) -> None:
    old = files.issue()
    context = listener(files)
    leaf = ca.issue_cert("payments")
    Path(files.cert).write_bytes(leaf.cert_chain_pems[0].bytes())
    for _ in range(5):
        context.refresh()
    assert said() == [_failed(f"the private key does not belong to the certificate ({files.cert}, {files.key})")]
    assert Handshake(client_of(ca), context.context).served == old
    leaf.private_key_pem.write_to_path(files.key)
    context.refresh()
    assert said() == [REREAD]
    assert Handshake(client_of(ca), context.context).served == serial(leaf.cert_chain_pems[0].bytes())


def test_file_that_is_gone_or_empty_for_a_while_keeps_the_old_one(files: Files, ca: trustme.CA, said) -> None:
    expected = files.issue()
    context = listener(files)
    content = Path(files.cert).read_bytes()
    os.unlink(files.cert)
    for _ in range(3):
        context.refresh()
    assert said() == [_failed(f"{files.cert} cannot be read: No such file or directory")]
    for part, levels in ((b"", ["ERROR"]), (content[: len(content) // 2], [])):  # of which the same is to be said
        Path(files.cert).write_bytes(part)
        for _ in range(3):
            context.refresh()
        assert [level for level, _ in said()] == levels
        assert Handshake(client_of(ca), context.context).served == expected
    Path(files.cert).write_bytes(content)
    context.refresh()
    assert said() == [REREAD]


def test_same_size_and_time_but_other_content_is_noticed(files: Files) -> None:
    made: list[str] = []

    def make() -> ssl.SSLContext:
        made.append(Path(files.cert).read_text())
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    Path(files.cert).write_text("one")
    os.utime(files.cert, ns=(1, 1))
    context = TlsContext("k", make, (files.cert,))
    Path(files.cert).write_text("two")
    os.utime(files.cert, ns=(1, 1))  # as rsync, tar and cp -p leave it
    context.refresh()
    assert made == ["one", "two"]


def test_file_that_may_be_read_at_last_is_read(files: Files, said) -> None:
    allowed = False

    def make() -> ssl.SSLContext:
        if not allowed and context is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    context: TlsContext | None = None
    context = TlsContext("k", make, (files.key,))
    old = context.context
    files.issue()
    context.refresh()
    assert [level for level, _ in said()] == ["ERROR"]
    allowed = True
    os.chmod(files.key, 0o600)  # which changes neither its size nor when it was written
    context.refresh()
    assert context.context is not old


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_want_of_the_moment_is_said_once_and_does_not_keep_the_old_one_for_good(
    files: Files, number: int, said
) -> None:
    wanting = False

    def make() -> ssl.SSLContext:
        if wanting:
            raise OSError(number, os.strerror(number))
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    context = TlsContext("k", make, (files.cert,))
    old = context.context
    files.issue()
    wanting = True
    for _ in range(4):
        context.refresh()
    assert said() == [
        ("ERROR", f"k: {files.cert} cannot be read: {os.strerror(number)}; what was read before stays in force")
    ]
    assert context.context is old
    wanting = False
    context.refresh()
    assert context.context is not old
    assert said() == [("INFO", "k: its files have changed and were read again")]


def test_files_that_cannot_be_used_are_not_read_again_until_they_change(files: Files, said) -> None:
    """Whatever number OpenSSL gives its error: that is no errno."""
    made = []

    def make() -> ssl.SSLContext:
        made.append(len(made))
        if len(made) in (2, 3):
            raise ssl.SSLError(errno.EIO, "no start line")
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    context = TlsContext("k", make, (files.cert,))
    for times in (2, 3, 4):
        files.issue()
        for _ in range(5):
            context.refresh()
        assert len(made) == times
    assert [level for level, _ in said()] == ["ERROR", "INFO"]


def test_each_time_that_files_cannot_be_used_is_said(files: Files, said) -> None:
    context = listener(files)
    content = Path(files.cert).read_bytes()
    for _ in range(3):
        for part in (b"", content):
            Path(files.cert).write_bytes(part)
            context.refresh()
        assert [level for level, _ in said()] == ["ERROR", "INFO"]


def test_hundred_rotations_leave_no_descriptor(files: Files) -> None:
    context = listener(files, client_ca=files.ca)
    before = len(os.listdir("/proc/self/fd"))
    cert, key = Path(files.cert).read_bytes(), Path(files.key).read_bytes()
    for number in range(100):
        for path, content in ((files.cert, cert), (files.key, key)):
            Path(path + ".new").write_bytes(content if number % 3 else content[:-30])
            os.replace(path + ".new", path)
        context.refresh()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_to_follow_is_not_followed(said) -> None:
    context = upstream()
    before = context.context
    context.refresh()
    assert (context.context, said()) == (before, [])


# -- what an error means


class _Reason(ssl.SSLError):
    """As OpenSSL reports it: by a name, and where Python does not know that by text alone."""

    def __init__(self, reason: str | None, text: str = "") -> None:
        lead = "[SSL]" if reason is None else f"[SSL: {reason}]"
        super().__init__(1, f"{lead} {text or (reason or '').replace('_', ' ').lower()} (_ssl.c:1006)")
        self.reason = reason  # type: ignore[assignment]


_REFUSED = "payments refused the TLS connection: "
_IMPOSSIBLE = "no TLS with payments is possible: "
_CERTIFICATE = "; does it want a client certificate (tls.cert)?"


@pytest.mark.parametrize(
    ("error", "proxy_error", "detail"),
    [
        (
            _Reason("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            "tls_alert_received",
            f"{_REFUSED}tlsv13 alert certificate required{_CERTIFICATE}",
        ),
        (
            _Reason("SSLV3_ALERT_HANDSHAKE_FAILURE"),
            "tls_alert_received",
            f"{_REFUSED}sslv3 alert handshake failure{_CERTIFICATE}",
        ),
        (_Reason("TLSV1_ALERT_UNKNOWN_CA"), "tls_alert_received", f"{_REFUSED}tlsv1 alert unknown ca"),
        (
            _Reason("TLSV1_ALERT_PROTOCOL_VERSION"),
            "tls_alert_received",
            f"{_REFUSED}tlsv1 alert protocol version",
        ),
        (_Reason("TLSV1_ALERT_INTERNAL_ERROR"), "tls_alert_received", f"{_REFUSED}tlsv1 alert internal error"),
        # Alerts as well, though their names do not say so.
        (_Reason("TLSV1_UNRECOGNIZED_NAME"), "tls_alert_received", f"{_REFUSED}tlsv1 unrecognized name"),
        (_Reason("TLSV1_UNSUPPORTED_EXTENSION"), "tls_alert_received", f"{_REFUSED}tlsv1 unsupported extension"),
        # One that has no name in Python.
        (
            _Reason(None, "tlsv1 alert no application protocol"),
            "tls_alert_received",
            f"{_REFUSED}tlsv1 alert no application protocol",
        ),
        (
            _Reason("WRONG_VERSION_NUMBER"),
            "tls_protocol_error",
            f"{_IMPOSSIBLE}wrong version number; does it speak plain HTTP?",
        ),
        (
            _Reason("RECORD_LAYER_FAILURE"),
            "tls_protocol_error",
            f"{_IMPOSSIBLE}record layer failure; does it speak plain HTTP?",
        ),
        (_Reason("NO_SHARED_CIPHER"), "tls_protocol_error", f"{_IMPOSSIBLE}no shared cipher"),
        # Of alerts, but not one.
        (_Reason("UNKNOWN_ALERT_TYPE"), "tls_protocol_error", f"{_IMPOSSIBLE}unknown alert type"),
        (_Reason("TOO_MANY_WARN_ALERTS"), "tls_protocol_error", f"{_IMPOSSIBLE}too many warn alerts"),
        (
            _Reason("UNEXPECTED_EOF_WHILE_READING"),
            "tls_protocol_error",
            f"{_IMPOSSIBLE}unexpected eof while reading",
        ),
        (_Reason(None, "something new"), "tls_protocol_error", f"{_IMPOSSIBLE}something new"),
        (ssl.SSLError("made by hand"), "tls_protocol_error", f"{_IMPOSSIBLE}made by hand"),
        (ssl.SSLError(), "tls_protocol_error", f"{_IMPOSSIBLE}no reason given"),
        (
            ssl.SSLCertVerificationError("made by hand"),
            "tls_certificate_error",
            "the certificate of payments is not accepted: made by hand",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, ssl.SSLError) else "",
)
def test_error_says_who_could_not_go_on(error: ssl.SSLError, proxy_error: str, detail: str) -> None:
    failure = tls_failure("payments", error)
    assert (failure.status, failure.code, failure.proxy_error) == (502, "DOWNSTREAM_FAILURE", proxy_error)
    assert failure.detail == detail
    assert is_tls(failure)
    assert verdict.without_connection(failure) is End.TLS_ERROR
    assert verdict.broken(failure, dead=False) is End.TLS_ERROR


def test_server_that_knows_no_such_name_is_heard(files: Files, ca: trustme.CA) -> None:
    server = server_of(ca.issue_cert("payments"))
    server.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    error = Handshake(upstream(ca_file=files.ca).context, server).errors[0]
    assert error is not None
    assert tls_failure("payments", error).proxy_error == "tls_alert_received"


@pytest.mark.parametrize("octets", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n"])
def test_server_that_speaks_something_else_is_told_from_one_that_refuses(files: Files, octets: bytes) -> None:
    to_client = ssl.MemoryBIO()
    to_client.write(octets)
    client = upstream(ca_file=files.ca).context.wrap_bio(to_client, ssl.MemoryBIO(), server_hostname="payments")
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    failure = tls_failure("payments", caught.value)
    assert failure.proxy_error == "tls_protocol_error"
    assert failure.detail.endswith("; does it speak plain HTTP?")


def test_signature_of_what_is_missing_is_none(tmp_path: Path) -> None:
    (signature,) = tls._signature((str(tmp_path / "none"),))
    assert signature is None
