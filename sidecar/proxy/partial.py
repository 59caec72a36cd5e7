"""A head that did not come in one read."""

from __future__ import annotations


class PartialHead:
    """Collects the octets of a head until its empty line, in linear time however small the reads are.

    Attributes:
        data: what has come so far; once `add` has returned a position, exactly the head.
        parsed: how many octets of it a parser has been shown; its user's to keep.
    """

    __slots__ = ("data", "parsed")

    def __init__(self) -> None:
        self.data = bytearray()
        self.parsed = 0

    def add(self, data: bytes) -> int:
        """Take in another read.

        Returns:
            How many octets of `data` belong to the head when it ends in them, else -1.
        """
        had = len(self.data)
        self.data += data
        at = self.data.find(b"\r\n\r\n", max(0, had - 3))
        if at < 0:
            return -1
        del self.data[at + 4 :]
        return at + 4 - had
