"""Authorities and certificates of the tests, and files that change the way that a mounted secret does."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1", "payments.test")
"""What a good server certificate is for."""

ANCIENT = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
PAST = dt.datetime(2002, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and the key of it, both in PEM."""

    chain: bytes
    key: bytes

    @property
    def together(self) -> bytes:
        """Both, as one file holds them."""
        return self.key + self.chain


class Authority:
    """Who issues certificates. Nobody trusts it who was not told to."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def pem(self) -> bytes:
        return self._ca.cert_pem.bytes()

    @cached_property
    def good(self) -> Pair:
        """For each of `NAMES`."""
        return self.issue(*NAMES)

    @cached_property
    def expired(self) -> Pair:
        return self.issue(*NAMES, not_before=ANCIENT, not_after=PAST)

    @cached_property
    def elsewhere(self) -> Pair:
        """For a name and an address that no test has."""
        return self.issue("elsewhere.test", "192.0.2.1")

    @cached_property
    def client(self) -> Pair:
        return self.issue("application@clients.test")

    def issue(
        self,
        *names: str,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> Pair:
        """A fresh certificate, with a key of its own."""
        issued = self._ca.issue_cert(*names, not_before=not_before, not_after=not_after)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return Pair(chain, issued.private_key_pem.bytes())


class Mounted:
    """A folder in which files change as in a mounted secret: all together, and each path leads to the new ones.

    Kubernetes makes a new folder, renames a symlink over `..data`, and removes the old folder; the paths that a
    program is given are symlinks through `..data`, whose own inodes never change.

    Args:
        folder: made here.
        files: contents by name.
    """

    def __init__(self, folder: Path, **files: bytes) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        folder.mkdir()
        self.swap(**files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def swap(self, **files: bytes) -> None:
        """Replace all the files at once."""
        data, number = self.folder / "..data", next(self._numbers)
        before = data.resolve() if data.exists() else None
        after = self.folder / f"..generation_{number}"
        after.mkdir()
        for name, octets in files.items():
            (after / name).write_bytes(octets)
        (self.folder / "..data_tmp").symlink_to(after.name)
        (self.folder / "..data_tmp").rename(data)
        if before is not None:
            shutil.rmtree(before)


def written(path: Path, octets: bytes) -> str:
    """The path of a file that holds `octets` from now on."""
    path.write_bytes(octets)
    return str(path)
