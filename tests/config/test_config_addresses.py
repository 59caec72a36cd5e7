"""Addresses, upstreams, hosts and prefixes, one value at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.addresses import (
    TcpAddress,
    UnixAddress,
    Upstream,
    overlap,
    parse_address,
    parse_host,
    parse_pem_file,
    parse_prefix,
    parse_server_name,
    parse_upstream,
    upstream_hosts,
)
from sidecar.config.mistake import Mistake

ports = st.integers(min_value=0, max_value=65535)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
hosts = names | st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:21080", TcpAddress("127.0.0.1", 21080)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("[0:0::1]:80", TcpAddress("::1", 80)),
        (":21090", TcpAddress(None, 21090)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("LocalHost.:1", TcpAddress("localhost", 1)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
    ],
)
def test_address_is_read(text: str, address: object) -> None:
    assert parse_address(text) == address


@given(st.builds(TcpAddress, st.none() | hosts, ports))
def test_address_survives_being_written(address: TcpAddress) -> None:
    assert parse_address(str(address)) == address


@given(st.from_regex(r"(/[!-.0-~]{1,20}){1,3}", fullmatch=True))
def test_socket_path_survives_being_written(path: str) -> None:
    assert parse_address(str(UnixAddress(path))) == UnixAddress(path)


FORMS = "must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 (all interfaces) or unix:/run/app.sock"
HOST = "must name a host: a DNS name, an IPv4 address, or an IPv6 address in brackets"
SOCKET = "must be the absolute path of a socket, as in unix:/run/app.sock"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (8080, FORMS),
        (None, FORMS),
        ("", FORMS),
        ("localhost", FORMS),
        ("http://localhost:80", FORMS),
        ("/run/x.sock", FORMS),
        ("[::1]", "must end with a port, as in 127.0.0.1:8080"),
        ("::1:80", "an IPv6 address goes in brackets, as in [::1]:8080"),
        ("[::1:80", HOST),
        ("[::1]80", HOST),
        ("[nine]:80", "is no valid IPv6 address"),
        ("[fe80::1%eth0]:80", "must not name a zone (%) in an IPv6 address"),
        ("256.0.0.1:80", "is no valid IPv4 address"),
        ("127.1:80", "is no valid IPv4 address"),
        ("*:80", HOST),
        ("a..b:80", HOST),
        ("-a:80", HOST),
        ("bücher:80", HOST),
        ("a" * 64 + ":80", HOST),
        (".".join(["a" * 50] * 6) + ":80", HOST),
        ("localhost:", "must have a port from 0 to 65535"),
        ("localhost:http", "must have a port from 0 to 65535"),
        ("localhost:65536", "must have a port from 0 to 65535"),
        ("localhost:-1", "must have a port from 0 to 65535"),
        ("unix:", SOCKET),
        ("unix:run/x.sock", SOCKET),
        ("unix:/run/", SOCKET),
        ("unix:/a\0b", SOCKET),
        ("unix:/" + "x" * 107, "must be a socket path of at most 107 bytes"),
        ("unix:/" + "é" * 54, "must be a socket path of at most 107 bytes"),
        ("unix:/\ud800", "must be text that UTF-8 can hold"),
    ],
)
def test_address_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_address(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "upstream", "authority", "written"),
    [
        ("http://Payments.:8080", Upstream("payments", 8080), "payments:8080", "http://payments:8080"),
        ("http://payments", Upstream("payments", 80), "payments", "http://payments:80"),
        ("HTTP://payments:80/", Upstream("payments", 80), "payments", "http://payments:80"),
        ("http://[::1]", Upstream("::1", 80), "[::1]", "http://[::1]:80"),
        ("http://[::1]:81", Upstream("::1", 81), "[::1]:81", "http://[::1]:81"),
        ("http://payments:443", Upstream("payments", 443), "payments:443", "http://payments:443"),
        ("https://Payments.", Upstream("payments", 443, scheme="https"), "payments", "https://payments:443"),
        ("HTTPS://payments:443/", Upstream("payments", 443, scheme="https"), "payments", "https://payments:443"),
        ("https://payments:80", Upstream("payments", 80, scheme="https"), "payments:80", "https://payments:80"),
        ("https://[::1]", Upstream("::1", 443, scheme="https"), "[::1]", "https://[::1]:443"),
        ("unix:/run/x", Upstream("localhost", 80, "/run/x"), "localhost", "unix:/run/x"),
    ],
)
def test_upstream_is_read(text: str, upstream: Upstream, authority: str, written: str) -> None:
    found = parse_upstream(text)
    assert found == upstream
    assert found.authority == authority
    assert str(found) == written
    assert parse_upstream(written) == upstream


@given(st.builds(Upstream, hosts, ports.filter(bool), scheme=st.sampled_from(["http", "https"])))
def test_upstream_survives_being_written_and_leaves_out_the_port_of_its_scheme(upstream: Upstream) -> None:
    assert parse_upstream(str(upstream)) == upstream
    assert parse_upstream(f"{upstream.scheme}://{upstream.authority}") == upstream


def test_hosts_of_upstreams_are_those_of_origins_each_once() -> None:
    upstreams = [parse_upstream(text) for text in ("http://b", "unix:/a", "http://a:81", "http://B:80")]
    assert upstream_hosts(upstreams) == ("b:80", "a:81")


BEGIN = "must begin with http://, https:// or unix:/, as in http://payments:8080"
USER = "must not hold a user or password; let the application send an Authorization header"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (8080, BEGIN),
        ("payments:8080", BEGIN),
        ("ftp://payments", BEGIN),
        ("//payments", BEGIN),
        ("https:payments", BEGIN),
        ("httpss://payments", BEGIN),
        (["http://payments"], BEGIN),
        ("http://u:p@payments", USER),
        ("https://u:p@payments", USER),
        ("u:p@payments:80", USER),
        ("http://payments?x", "must end after the host and port; a query belongs to the request"),
        ("http://payments/#x", "must end after the host and port; a query belongs to the request"),
        (
            "http://payments/v1",
            "must end after the host and port; the path comes from the request (see prefix and strip_prefix)",
        ),
        ("http://", HOST),
        ("http://:80", HOST),
        ("http://payments:0", "must have a port from 1 to 65535"),
        ("http://payments:", "must have a port from 1 to 65535"),
        ("https://", HOST),
        ("https://payments:0", "must have a port from 1 to 65535"),
        ("https://payments?x", "must end after the host and port; a query belongs to the request"),
        ("unix:x", SOCKET),
    ],
)
def test_upstream_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_upstream(value)
    assert str(caught.value) == message
    assert caught.value.show == (message != USER)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("API.Example.", "api.example"),
        ("api:80", "api:80"),
        ("API.:8080", "api:8080"),
        ("[::0001]", "[::1]"),
        ("[::1]:80", "[::1]:80"),
        ("10.0.0.1", "10.0.0.1"),
        ("my_service", "my_service"),
    ],
)
def test_host_is_read_in_normal_form(text: str, host: str) -> None:
    assert parse_host(text) == host
    assert parse_host(host) == host


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (80, HOST),
        ("", HOST),
        ("*.example", "must be a whole name; wildcards are not supported"),
        ("http://api", "must be a host or host:port alone, without scheme or path"),
        ("api:0", "must have a port from 1 to 65535"),
        ("::1", "an IPv6 address goes in brackets, as in [::1]:8080"),
    ],
)
def test_host_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_host(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("API.Example.", "api.example"),
        ("payments", "payments"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::0001]", "::1"),
    ],
)
def test_server_name_is_read_in_normal_form(text: str, name: str) -> None:
    assert parse_server_name(text) == name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, HOST),
        (None, HOST),
        ("", HOST),
        ("a b", HOST),
        ("a" * 64, HOST),
        (".".join(["a" * 50] * 6), HOST),
        ("*.example", "must be a whole name, which a certificate for *.example.com covers as well"),
        ("https://api", "must be a name alone, without scheme or path"),
        ("api/v1", "must be a name alone, without scheme or path"),
        ("api:443", "must be a name alone, without a port"),
        ("[::1]:443", "must be a name alone, without a port"),
        ("1.2.3", "is no valid IPv4 address"),
        ("[fe80::1%eth0]", "must not name a zone (%) in an IPv6 address"),
    ],
)
def test_server_name_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_server_name(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "path", ["/a", "/etc/tls/tls.crt", "/a b/../é", "/\udcff", "/" + "x" * 4095, "/" + "é" * 2047 + "x"]
)
def test_path_of_a_pem_file_is_kept_as_it_is(path: str) -> None:
    assert parse_pem_file(path) == path


PEM = "must be the absolute path of a PEM file, as in /etc/tls/tls.crt"
CONTENT = "must be the path of a PEM file, not its content"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, PEM),
        (5, PEM),
        (["/a"], PEM),
        ("", PEM),
        ("/", PEM),
        ("tls.crt", PEM),
        ("./tls.crt", PEM),
        ("~/tls.crt", PEM),
        ("file:///tls.crt", PEM),
        ("/etc/tls/", PEM),
        ("/a\0b", PEM),
        ("/" + "x" * 4096, "must be a path of at most 4096 bytes"),
        ("/" + "é" * 2048, "must be a path of at most 4096 bytes"),
        ("/\ud800", "must be text that UTF-8 can hold"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", CONTENT),
        ("\n  -----BEGIN CERTIFICATE-----", CONTENT),
    ],
)
def test_path_of_a_pem_file_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_pem_file(value)
    assert str(caught.value) == message
    assert caught.value.show == (message != CONTENT)


@given(st.text() | st.text().map("/".__add__))
def test_path_of_a_pem_file_is_absolute_and_of_bounded_length(text: str) -> None:
    try:
        path = parse_pem_file(text)
    except Mistake:
        return
    assert path == text
    assert path.startswith("/")
    assert len(path.encode(errors="surrogateescape")) <= 4096
    assert "\0" not in path


@pytest.mark.parametrize("prefix", ["/", "/payments", "/a/b.c/..d", "/%20"])
def test_prefix_is_kept_as_it_is(prefix: str) -> None:
    assert parse_prefix(prefix) == prefix


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "must be a path that begins with /"),
        ("payments", "must be a path that begins with /"),
        (7, "must be a path that begins with /"),
        ("/a/", "must not end with /"),
        ("//", "must not end with /"),
        ("/a?b", "must be a path alone, without ? or #"),
        ("/a#b", "must be a path alone, without ? or #"),
        ("/a b", "must be printable ASCII without spaces; percent-encode the rest"),
        ("/é", "must be printable ASCII without spaces; percent-encode the rest"),
        ("/a\n", "must be printable ASCII without spaces; percent-encode the rest"),
        ("/a//b", "must not hold empty, . or .. segments"),
        ("/a/./b", "must not hold empty, . or .. segments"),
        ("/..", "must not hold empty, . or .. segments"),
        ("/a/%2E%2e", "must not hold empty, . or .. segments"),
    ],
)
def test_prefix_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_prefix(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (":80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        (":80", "name:80", True),
        (":80", ":81", False),
        (":0", ":0", False),
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "[::1]:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "127.0.0.1:80", False),
        ("[::]:80", "0.0.0.0:80", False),
        ("0.0.0.0:80", "0.0.0.0:80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("localhost:80", "[::1]:80", True),
        ("localhost:80", "0.0.0.0:80", True),
        ("localhost:80", "10.0.0.1:80", False),
        ("localhost:80", "name:80", False),
        ("name:80", "name:80", True),
        ("name:80", "other:80", False),
        ("name:80", "[::]:80", True),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", ":80", False),
    ],
)
def test_addresses_overlap_when_both_cannot_be_bound(one: str, other: str, meet: bool) -> None:
    assert overlap(parse_address(one), parse_address(other)) is meet
    assert overlap(parse_address(other), parse_address(one)) is meet


@given(hosts, ports.filter(bool))
def test_addresses_overlap_with_all_interfaces_whatever_their_host(host: str, port: int) -> None:
    assert overlap(TcpAddress(host, port), TcpAddress(None, port))
