"""Names that mean to a sidecar what a test says, servers at several addresses, and a resolver with moods.

The sidecar runs in a mount namespace of its own, in which /etc/hosts, /etc/nsswitch.conf and /etc/resolv.conf are the
test's. A file that is mounted cannot be replaced, only written; hosts is written at once and within one page, so that
who reads it meanwhile sees either all of the old or all of the new.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from .harness import Upstream, missing, need

_PAGE = 4096

_MOUNT = """
for file in hosts nsswitch.conf resolv.conf; do mount --bind "$0/$file" "/etc/$file" || exit 1; done
exec "$@"
"""


class Names:
    """A hosts file; nothing else is asked, unless there is a `resolver`.

    Args:
        folder: made here, for the files.
        resolver: the address of a name server, on port 53.

    Attributes:
        within: a command that runs the command behind it where these names are in force.
    """

    def __init__(self, folder: Path, *, resolver: str | None = None) -> None:
        unshare = need("unshare")
        done = subprocess.run([unshare, "--mount", "true"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            missing(f"a mount namespace cannot be made: {done.stderr.strip()}")
        self._addresses: dict[str, tuple[str, ...]] = {}
        folder.mkdir()
        self._file = folder / "hosts"
        self._file.write_bytes(b"#" * _PAGE)
        (folder / "nsswitch.conf").write_text("hosts: files\n" if resolver is None else "hosts: files dns\n")
        # By itself glibc gives up after ten seconds; here it takes as long as it can be made to.
        options = f"nameserver {resolver}\noptions timeout:30 attempts:5\n"
        (folder / "resolv.conf").write_text("" if resolver is None else options)
        self.within = [unshare, "--mount", "sh", "-c", _MOUNT, str(folder)]

    def __setitem__(self, name: str, addresses: Iterable[str]) -> None:
        self._addresses[name] = tuple(addresses)
        self._write()

    def __delitem__(self, name: str) -> None:
        del self._addresses[name]
        self._write()

    def _write(self) -> None:
        lines = [f"{address} {name}\n" for name, addresses in self._addresses.items() for address in addresses]
        octets = "".join(lines).encode()
        assert len(octets) <= _PAGE
        with self._file.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), octets.ljust(_PAGE, b"#"), 0)


class Fleet:
    """Servers at several addresses of this host, all on one port.

    Args:
        hosts: the addresses.

    Attributes:
        port: of each of them.
        servers: by address.
    """

    def __init__(self, *hosts: str) -> None:
        self.port, self.servers = self._listen(hosts)

    @staticmethod
    def _listen(hosts: tuple[str, ...]) -> tuple[int, dict[str, Upstream]]:
        while True:
            first = Upstream(host=hosts[0])
            servers = {hosts[0]: first}
            try:
                for host in hosts[1:]:
                    servers[host] = Upstream(host=host, port=first.port)
            except OSError:  # the port is somebody else's there
                for server in servers.values():
                    server.close()
            else:
                return first.port, servers

    def __enter__(self) -> Self:
        for server in self.servers.values():
            server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers.values():
            server.__exit__()

    def __getitem__(self, host: str) -> Upstream:
        return self.servers[host]

    def heard(self) -> dict[str, int]:
        """Requests so far, by address."""
        return {host: len(server.requests) for host, server in self.servers.items()}


SERVFAIL, NXDOMAIN = 2, 3
_TYPES = {1: socket.AF_INET, 28: socket.AF_INET6}


class NameServer:
    """A name server on port 53 of `host`, which the kernel lets only root have.

    Attributes:
        answers: addresses by name, or a code of failure; what is not in here is not answered.
        asked: questions so far.
    """

    def __init__(self, host: str) -> None:
        self.answers: dict[str, list[str] | int] = {}
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, 53))
        except PermissionError:
            self._socket.close()
            missing("port 53 cannot be bound")
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, though it says that it is not connected
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, peer = self._socket.recvfrom(512)
            if not question:
                return
            self.asked += 1
            reply = self._reply(question)
            if reply is not None:
                self._socket.sendto(reply, peer)

    def _reply(self, question: bytes) -> bytes | None:
        """RFC 1035 section 4."""
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode())
            at += 1 + size
        at += 1
        (kind,) = struct.unpack_from("!H", question, at)
        answer = self.answers.get(".".join(labels))
        if answer is None:
            return None
        code = answer if isinstance(answer, int) else 0
        records = list(_records(kind, [] if isinstance(answer, int) else answer))
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return head + question[12 : at + 4] + b"".join(records)


def _records(kind: int, addresses: Iterable[str]) -> Iterator[bytes]:
    family = _TYPES.get(kind)
    for address in addresses:
        if family == (socket.AF_INET6 if ":" in address else socket.AF_INET):
            octets = socket.inet_pton(family, address)
            yield b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(octets)) + octets
