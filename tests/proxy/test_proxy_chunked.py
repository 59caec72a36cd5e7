"""Bodies in the chunked coding."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.chunked import ChunkedDecoder, ChunkedError, encode_chunk, encode_end

_NAMES = st.sampled_from([b"X-Sum", b"Digest", b"x", b"Server-Timing"])
_VALUES = st.binary(max_size=8).map(lambda octets: bytes(c for c in octets if 33 <= c <= 126 or c >= 128))
_TRAILERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=3)
_EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"'])
# Octets that look like ends of messages are the interesting ones.
_CHUNKS = st.lists(
    st.tuples(
        st.one_of(
            st.binary(min_size=1, max_size=20),
            st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"\r", b"0\r\n\r\n0\r\n\r\n"]),
        ),
        _EXTENSIONS,
        st.booleans(),
    ),
    max_size=6,
)
_CUTS = st.lists(st.integers(0, 400), max_size=12)


def _encoded(chunks: list[tuple[bytes, bytes, bool]], trailers: list[tuple[bytes, bytes]]) -> bytes:
    octets = b""
    for data, extension, upper in chunks:
        octets += (b"0%X" if upper else b"%x") % len(data) + extension + b"\r\n" + data + b"\r\n"
    return octets + b"0\r\n" + b"".join(b"%b: %b\r\n" % trailer for trailer in trailers) + b"\r\n"


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(places) if end > start]


@given(_CHUNKS, _TRAILERS, _CUTS, st.sampled_from([b"", b"G", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n"]))
@example([(b"ab", b"", False)], [], list(range(20)), b"GET")
def test_every_split_gives_the_same_body_trailers_and_end(
    chunks: list[tuple[bytes, bytes, bool]], trailers: list[tuple[bytes, bytes]], cuts: list[int], behind: bytes
) -> None:
    message = _encoded(chunks, trailers)
    decoder = ChunkedDecoder(65_536)
    body, total = b"", 0
    for piece in _pieces(message + behind, cuts):
        decoded, used = decoder.feed_exact(piece)
        body += decoded
        total += used
        if decoder.done:
            break
        assert used == len(piece)
    assert decoder.done
    assert body == b"".join(data for data, _, _ in chunks)
    assert decoder.trailers == trailers
    assert total == len(message)
    decoder.release()


@given(_CHUNKS, _TRAILERS, _CUTS, st.sampled_from([b"", b"x", b"HTTP/1.1 200 OK\r\n\r\n"]))
def test_reading_a_response_gives_the_same_and_notices_what_is_behind_it(
    chunks: list[tuple[bytes, bytes, bool]], trailers: list[tuple[bytes, bytes]], cuts: list[int], behind: bytes
) -> None:
    message = _encoded(chunks, trailers)
    decoder = ChunkedDecoder(65_536)
    pieces = _pieces(message, cuts)
    pieces[-1] += behind
    body = b"".join(map(decoder.feed, pieces))
    assert decoder.done
    assert body == b"".join(data for data, _, _ in chunks)
    assert decoder.trailers == trailers
    assert decoder.surplus == bool(behind)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), _TRAILERS)
def test_what_is_encoded_decodes_to_the_same(bodies: list[bytes], trailers: list[tuple[bytes, bytes]]) -> None:
    decoder = ChunkedDecoder(65_536)
    octets = b"".join(map(encode_chunk, bodies)) + encode_end(trailers)
    assert decoder.feed_exact(octets) == (b"".join(bodies), len(octets))
    assert decoder.trailers == trailers


def test_encoding_in_octets() -> None:
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encode_end([]) == b"0\r\n\r\n"
    assert encode_end([(b"X-Sum", b"1")]) == b"0\r\nX-Sum: 1\r\n\r\n"


def test_forbidden_trailers_do_not_travel_on() -> None:
    assert encode_end([(b"Content-Length", b"5"), (b"transfer_encoding", b"chunked")]) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "octets",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1;\na\r\n",
        b"11111111111111111\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nno trailer\r\n\r\n",
    ],
)
def test_malformed_coding_is_refused(octets: bytes) -> None:
    for whole in (True, False):
        for read in (ChunkedDecoder.feed, ChunkedDecoder.feed_exact):
            decoder = ChunkedDecoder(65_536)
            with pytest.raises(ChunkedError):
                for piece in [octets] if whole else [octets[i : i + 1] for i in range(len(octets))]:
                    read(decoder, piece)


@pytest.mark.parametrize("read", [ChunkedDecoder.feed, ChunkedDecoder.feed_exact])
@pytest.mark.parametrize("endless", [b"1;" + b"x" * 200, b"0\r\n" + b"A: b\r\n" * 40])
def test_octets_without_body_are_bounded(read, endless: bytes) -> None:
    decoder = ChunkedDecoder(100)
    with pytest.raises(ChunkedError, match="too large"):
        for at in range(len(endless)):
            read(decoder, endless[at : at + 1])
    assert not decoder.done


@pytest.mark.parametrize("read", [ChunkedDecoder.feed, ChunkedDecoder.feed_exact])
@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
def test_trailers_are_bounded_in_the_read_that_brings_them_with_body(read, size: int, fits: bool) -> None:
    octets = _encoded([(b"x" * 200, b"", False)], [(b"A", b"a"), (b"B", b"b" * (size - 11))])
    decoder = ChunkedDecoder(100)
    if fits:
        read(decoder, octets)
        assert decoder.done
    else:
        with pytest.raises(ChunkedError, match="trailers are too large"):
            read(decoder, octets)


def test_bound_counts_only_octets_since_the_last_of_the_body() -> None:
    decoder = ChunkedDecoder(10)
    for _ in range(50):
        for piece in (b"1;abc", b"\r\n", b"x", b"\r\n"):
            decoder.feed_exact(piece)
    assert not decoder.done
