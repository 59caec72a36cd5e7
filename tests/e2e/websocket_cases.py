"""Cases after the chapters of the Autobahn test suite, each with what a server sends back.

<https://github.com/crossbario/autobahn-testsuite> has the originals. Numbers follow theirs as far as there is a
counterpart; where a case has variants in how it is written to the wire, those have the same number and another title.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .websockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MIB,
    PING,
    PONG,
    TEXT,
    Deflating,
    Frame,
    chopped,
    closing,
    fragments,
    frame,
    text,
)

NORMAL, PROTOCOL_ERROR, INVALID_TEXT = 1000, 1002, 1007


@dataclass(frozen=True)
class Case:
    """One conversation.

    Attributes:
        name: its number in the suite, and what it is about.
        pieces: what the client writes, one write each.
        answer: what a server sends.
    """

    name: str
    pieces: Sequence[bytes]
    answer: Sequence[Frame]


CASES: list[Case] = []


def goes_well(name: str, pieces: Iterable[bytes], *answer: Frame, code: int = NORMAL) -> None:
    """The server answers, the client says goodbye, and so does the server."""
    CASES.append(Case(name, (*pieces, closing()), (*answer, goodbye(code))))


def fails(name: str, pieces: Iterable[bytes], *answer: Frame, code: int = PROTOCOL_ERROR) -> None:
    """The server ends the conversation with `code` when it has read `pieces`, for the last of which it is to blame."""
    CASES.append(Case(name, tuple(pieces), (*answer, goodbye(code))))


def goodbye(code: int, reason: bytes = b"") -> Frame:
    return Frame(CLOSE, struct.pack("!H", code) + reason)


def echoed(payload: str | bytes) -> Frame:
    return Frame(TEXT, payload.encode()) if isinstance(payload, str) else Frame(BINARY, payload)


def letters(size: int) -> bytes:
    """`size` octets of text in which each place is different from its neighbours."""
    return (b"0123456789abcdefghijklmnopqrstuvwxyz-" * (size // 37 + 1))[:size]


# -- 1: framing

for number, size in enumerate((0, 1, 125, 126, 127, 128, 65535, 65536), 1):
    for opcode, kind in ((TEXT, "text"), (BINARY, "binary")):
        chapter = f"1.{opcode}.{number} {kind} of {size} octets"
        message = frame(opcode, letters(size))
        goes_well(f"{chapter}", [message], Frame(opcode, letters(size)))
        chop = 1 if size < 1000 else 997
        goes_well(f"{chapter}, {chop} at a time", chopped(message, chop), Frame(opcode, letters(size)))

# -- 2: pings and pongs

goes_well("2.1 ping without payload", [frame(PING)], Frame(PONG, b""))
goes_well("2.2 ping with text", [frame(PING, b"Hello, world!")], Frame(PONG, b"Hello, world!"))
goes_well(
    "2.3 ping with octets that are no text",
    [frame(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")],
    Frame(PONG, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
)
goes_well("2.4 ping of 125 octets", [frame(PING, b"\xfe" * 125)], Frame(PONG, b"\xfe" * 125))
fails("2.5 ping of 126 octets", [frame(PING, b"\xfe" * 126)])
goes_well("2.6 ping, chopped", chopped(frame(PING, b"\xfe" * 125)), Frame(PONG, b"\xfe" * 125))
goes_well("2.7 pong that nobody asked for", [frame(PONG)])
goes_well("2.8 the same with payload", [frame(PONG, b"unsolicited pong payload")])
goes_well("2.9 the same before a ping", [frame(PONG, b"unsolicited"), frame(PING, b"ping")], Frame(PONG, b"ping"))
TEN = [b"payload-%d" % number for number in range(10)]
goes_well("2.10 ten pings", [frame(PING, each) for each in TEN], *(Frame(PONG, each) for each in TEN))
goes_well(
    "2.11 ten pings, chopped",
    chopped(b"".join(frame(PING, each) for each in TEN)),
    *(Frame(PONG, each) for each in TEN),
)

# -- 3: reserved bits

for number, (opcode, rsv) in enumerate(((TEXT, 2), (TEXT, 1), (TEXT, 3), (BINARY, 5), (PING, 6), (CLOSE, 7)), 1):
    bad = frame(opcode, b"\x03\xe8" if opcode == CLOSE else b"*", rsv=rsv)
    fails(f"3.{number} reserved bits {rsv:03b} on {opcode:#x}", [text("before") + bad], echoed("before"))
    fails(f"3.{number} the same, chopped", chopped(text("before") + bad[:2]), echoed("before"))

# -- 4: opcodes

for chapter, opcodes in ((1, range(3, 8)), (2, range(11, 16))):
    for number, opcode in enumerate(opcodes, 1):
        fails(f"4.{chapter}.{number} opcode {opcode}", [text("before"), frame(opcode)], echoed("before"))
        fails(
            f"4.{chapter}.{number} opcode {opcode} with payload",
            [text("before"), frame(opcode, b"?")],
            echoed("before"),
        )

# -- 5: fragmentation

fails("5.1 ping in two fragments", fragments(PING, [b"frag", b"ment"])[:1])
fails("5.2 pong in two fragments", fragments(PONG, [b"frag", b"ment"])[:1])
TWO = fragments(TEXT, [b"fragment1", b"fragment2"])
goes_well("5.3 text in two fragments", TWO, echoed("fragment1fragment2"))
goes_well("5.4 the same in one write", [b"".join(TWO)], echoed("fragment1fragment2"))
goes_well("5.5 the same, chopped", chopped(b"".join(TWO)), echoed("fragment1fragment2"))
PINGED = [TWO[0], frame(PING, b"between"), TWO[1]]
BETWEEN = (Frame(PONG, b"between"), echoed("fragment1fragment2"))
goes_well("5.6 ping between fragments", PINGED, *BETWEEN)
goes_well("5.7 the same in one write", [b"".join(PINGED)], *BETWEEN)
goes_well("5.8 the same, chopped", chopped(b"".join(PINGED)), *BETWEEN)
for number, fin in ((9, True), (12, False)):
    lone = frame(CONTINUATION, b"nothing to continue", fin=fin)
    fails(f"5.{number} continuation of nothing, fin {fin:d}", [lone])
    fails(f"5.{number + 1} the same, chopped", chopped(lone))
    fails(f"5.{number + 2} the same behind a message", [text("before"), lone], echoed("before"))
fails(
    "5.15 continuation behind a whole message",
    [*TWO, frame(CONTINUATION, b"?", fin=False)],
    echoed("fragment1fragment2"),
)
fails("5.18 text amid a fragmented text", [TWO[0], text("fragment2")])
FIVE = fragments(TEXT, TEN[:5])
goes_well(
    "5.19 five fragments with pings between",
    [*FIVE[:2], frame(PING, b"one"), *FIVE[2:4], frame(PING, b"two"), FIVE[4]],
    Frame(PONG, b"one"),
    Frame(PONG, b"two"),
    echoed(b"".join(TEN[:5]).decode()),
)

# -- 6: UTF-8

GREEK = "κόσμε"
SAMPLE = "Hello-µ@ßöäüàá-UTF-8!!"
goes_well("6.1.1 text without octets", [text("")], echoed(""))
goes_well("6.1.2 three fragments without octets", fragments(TEXT, [b"", b"", b""]), echoed(""))
goes_well("6.1.3 only the middle one has octets", fragments(TEXT, [b"", b"middle", b""]), echoed("middle"))
goes_well("6.2.1 valid text", [text(SAMPLE)], echoed(SAMPLE))
goes_well(
    "6.2.2 split between code points", fragments(TEXT, [SAMPLE[:7].encode(), SAMPLE[7:].encode()]), echoed(SAMPLE)
)
goes_well("6.2.3 a fragment for each octet", fragments(TEXT, chopped(SAMPLE.encode())), echoed(SAMPLE))
goes_well("6.2.4 the same of Greek", fragments(TEXT, chopped(GREEK.encode())), echoed(GREEK))
goes_well("6.2.5 written in pieces that split code points", chopped(text(GREEK)), echoed(GREEK))
BROKEN = GREEK.encode() + b"\xed\xa0\x80edited"
fails("6.3.1 a surrogate within", [text(BROKEN)], code=INVALID_TEXT)
fails("6.3.2 the same, a fragment for each octet", fragments(TEXT, chopped(BROKEN)), code=INVALID_TEXT)
fails("6.4.1 the same, in two fragments", fragments(TEXT, [BROKEN[:12], BROKEN[12:]]), code=INVALID_TEXT)
fails("6.4.2 the same, chopped", chopped(text(BROKEN)), code=INVALID_TEXT)

for end in range(1, len(GREEK.encode()) + 1):
    start = GREEK.encode()[:end]
    try:
        start.decode()
    except UnicodeDecodeError:
        fails(f"6.6.{end} code point that lacks its end", [text(start)], code=INVALID_TEXT)
    else:
        goes_well(f"6.6.{end} whole code points", [text(start)], echoed(start.decode()))

VALID = {
    "6.7.1": "\x00",
    "6.7.2": "\x80",
    "6.7.3": "\u0800",
    "6.7.4": "\U00010000",
    "6.9.1": "\x7f",
    "6.9.2": "\u07ff",
    "6.9.3": "\uffff",
    "6.9.4": "\U0010ffff",
    "6.11.1": "\ud7ff",
    "6.11.2": "\ue000",
    "6.11.3": "\ufffd",
    "6.22": "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)),
    "6.23": "\ufff9\ufffa\ufffb\ufffc\ufffd\ufffe\uffff",
}
for number, valid in VALID.items():
    goes_well(f"{number} at the edge of what is valid", [text(valid)], echoed(valid))

INVALID = {
    "6.8.1": b"\xf8\x88\x80\x80\x80",
    "6.8.2": b"\xfc\x84\x80\x80\x80\x80",
    "6.10.1": b"\xf7\xbf\xbf\xbf",
    "6.10.2": b"\xfb\xbf\xbf\xbf\xbf",
    "6.11.5": b"\xf4\x90\x80\x80",
    "6.12.1": b"\x80",
    "6.12.2": b"\xbf",
    "6.12.3": bytes(range(0x80, 0xC0)),
    "6.13.1": b" ".join(bytes([lead]) for lead in range(0xC0, 0xE0)),
    "6.13.2": b" ".join(bytes([lead]) for lead in range(0xE0, 0xF0)),
    "6.13.3": b" ".join(bytes([lead]) for lead in range(0xF0, 0xF8)),
    "6.14.1": b"\xc0",
    "6.14.2": b"\xe0\x80",
    "6.14.3": b"\xf0\x80\x80",
    "6.15": b"\xc0\xe0\x80\xf0\x80\x80\xdf\xef\xbf\xf7\xbf\xbf",
    "6.16.1": b"\xfe",
    "6.16.2": b"\xff",
    "6.17.1": b"\xc0\xaf",
    "6.17.2": b"\xe0\x80\xaf",
    "6.17.3": b"\xf0\x80\x80\xaf",
    "6.18.1": b"\xc1\xbf",
    "6.18.2": b"\xe0\x9f\xbf",
    "6.18.3": b"\xf0\x8f\xbf\xbf",
    "6.19.1": b"\xc0\x80",
    "6.20.1": b"\xed\xa0\x80",
    "6.20.2": b"\xed\xaf\xbf",
    "6.20.3": b"\xed\xb0\x80",
    "6.20.4": b"\xed\xbf\xbf",
    "6.21.1": b"\xed\xa0\x80\xed\xb0\x80",
    "6.21.2": b"\xed\xaf\xbf\xed\xbf\xbf",
}
for number, invalid in INVALID.items():
    fails(f"{number} invalid UTF-8", [text(invalid)], code=INVALID_TEXT)

# -- 7: closing

goes_well("7.1.1 close behind a message", [text("Hello")], echoed("Hello"))
fails("7.1.2 close twice", [closing() + closing()], code=NORMAL)
fails("7.1.3 ping behind close", [closing() + frame(PING)], code=NORMAL)
fails("7.1.4 text behind close", [closing() + text("too late")], code=NORMAL)
fails("7.1.5 close amid a fragmented text", [TWO[0] + closing()], code=NORMAL)
# Without Autobahn's ping behind the close: a server that closes with octets unread resets its own answer away.
fails(
    "7.1.6 close behind a large message",
    [text(letters(MIB // 4)), closing()],
    echoed(letters(MIB // 4).decode()),
    code=NORMAL,
)
fails("7.3.1 close without payload", [closing(None)], code=NORMAL)
fails("7.3.2 close with one octet", [frame(CLOSE, b"\x03")])
fails("7.3.3 close with a code", [closing()], code=NORMAL)
fails("7.3.4 close with a reason", [closing(1000, b"Hello, world!")], code=NORMAL)
fails("7.3.5 close with the longest reason", [closing(1000, b"*" * 123)], code=NORMAL)
fails("7.3.6 close with a reason that is too long", [closing(1000, b"*" * 124)])
fails("7.5.1 close with a reason that is no UTF-8", [closing(1000, BROKEN)], code=INVALID_TEXT)
for number, code in enumerate((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999), 1):
    fails(f"7.7.{number} code {code}", [closing(code)], code=NORMAL)
for number, code in enumerate((0, 999, 1004, 1005, 1016, 1100, 2000, 2999), 1):  # 1006 is valid to aiohttp
    fails(f"7.9.{number} code {code}", [closing(code)])
fails("7.11.1 close, chopped", chopped(closing(1000, b"Hello, world!")), code=NORMAL)

# -- 9: limits

for number, size in enumerate((1 * MIB, 4 * MIB, 16 * MIB), 3):
    for opcode in (TEXT, BINARY):
        goes_well(
            f"9.{opcode}.{number} message of {size >> 20} MiB",
            [frame(opcode, letters(size))],
            Frame(opcode, letters(size)),
        )
for number, size in enumerate((1 << 10, 1 << 14, 1 << 18, MIB), 3):
    for chapter, opcode in ((3, TEXT), (4, BINARY)):
        goes_well(
            f"9.{chapter}.{number} message of 4 MiB in fragments of {size >> 10} KiB",
            fragments(opcode, chopped(letters(4 * MIB), size)),
            Frame(opcode, letters(4 * MIB)),
        )
for number, size in enumerate((128, 1024, 1460, 2048), 1):
    for chapter, opcode in ((5, TEXT), (6, BINARY)):
        goes_well(
            f"9.{chapter}.{number} message of 1 MiB, {size} at a time",
            chopped(frame(opcode, letters(MIB)), size),
            Frame(opcode, letters(MIB)),
        )
for number, size in enumerate((0, 64, 1024), 1):
    for chapter, opcode in ((7, TEXT), (8, BINARY)):
        goes_well(
            f"9.{chapter}.{number} 500 messages of {size} octets",
            [frame(opcode, letters(size))] * 500,
            *[Frame(opcode, letters(size))] * 500,
        )

# -- 10: frames of a size that is nobody's

goes_well(
    "10.1.1 message of 64 KiB in fragments of 1300 octets",
    fragments(TEXT, chopped(letters(1 << 16), 1300)),
    echoed(letters(1 << 16).decode()),
)

# -- 12, 13: compression


@dataclass(frozen=True)
class Compressed:
    """Messages over a compressed WebSocket, each of which comes back.

    Attributes:
        name: its number in the suite, and what it is about.
        offer: what the client offers beside the name of the extension.
        messages: all text.
        size: of the fragments in which they are sent; None for one frame each.
        takeover: whether a client's message may refer to those before it.
        window_bits: of the client's compression.
    """

    name: str
    offer: str
    messages: Sequence[bytes]
    size: int | None = None
    takeover: bool = True
    window_bits: int = 15

    @property
    def pieces(self) -> Iterable[bytes]:
        deflate = Deflating(window_bits=self.window_bits, takeover=self.takeover)
        for message in self.messages:
            first, *others = chopped(deflate(message), self.size or len(message) + 64)
            yield frame(TEXT, first, rsv=4, fin=not others)
            for number, other in enumerate(others, 1):
                yield frame(CONTINUATION, other, fin=number == len(others))
        yield closing()


COMPRESSED = [
    *(
        Compressed(f"12.1.{number} ten messages of {size} octets", "", [letters(size)] * 10)
        for number, size in enumerate((16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072), 1)
    ),
    *(
        Compressed(f"12.1.{number} message of 128 KiB in fragments of {size} octets", "", [letters(1 << 17)] * 3, size)
        for number, size in enumerate((16, 256, 4096), 11)
    ),
    Compressed(
        "12.2.1 text that is compressed badly", "", [hashlib.sha512(bytes([n])).hexdigest().encode() for n in range(64)]
    ),
    Compressed("13.1 the client starts afresh", "client_no_context_takeover", [letters(1024)] * 10, takeover=False),
    Compressed("13.2 the server starts afresh", "server_no_context_takeover", [letters(1024)] * 10),
    Compressed("13.3 the server's window is small", "server_max_window_bits=9", [letters(1 << 16)] * 10),
    Compressed(
        "13.4 the client's window may be small", "client_max_window_bits", [letters(1 << 16)] * 10, window_bits=9
    ),
    Compressed(
        "13.5 all of it",
        "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=10",
        [letters(1 << 14)] * 10,
        takeover=False,
        window_bits=10,
    ),
]
