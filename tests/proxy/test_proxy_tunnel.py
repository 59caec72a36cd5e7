"""What passes through a tunnel, and how it ends: with FIN, with RST, by silence, with the sidecar."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.proxy.transcript import Conversation, Peer, message
from tests.proxy.tunnels import (
    CONNECT,
    ESTABLISHED,
    SWITCHING,
    SWITCHING_DOWNSTREAM,
    UPGRADE,
    WAYS,
    begin,
    counted,
    requests_of,
    tunnels_of,
)

_MUCH = 100_000  # more than a transport may buffer
_RESET = ConnectionResetError(104, "Connection reset by peer")
_TIMED_OUT = TimeoutError("SSL shutdown timed out")

_EITHER = pytest.mark.parametrize("reverse", [False, True], ids=["to the upstream", "to the client"])
_WAY = pytest.mark.parametrize("way", WAYS)


def _turned(ends: tuple[Peer, Peer], reverse: bool) -> tuple[Peer, Peer]:
    """Who sends, and who gets."""
    return (ends[1], ends[0]) if reverse else ends


def _over(talk: Conversation) -> None:
    """Nothing is left of the tunnel."""
    assert (tunnels_of(talk), talk.listener.connections, talk.listener.tunnels) == (0, 0, 0)
    assert talk.deadlines.watched == 0
    assert talk.listener.in_flight == 0


# -- octets


@_WAY
@_EITHER
def test_octets_pass_as_they_are(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    octets = bytes(range(256)) * 10
    one.sends(octets[:1], octets[1:7], octets[7:])
    other.gets(octets)
    one.gets_nothing()
    other.sends(b"back")
    one.gets(b"back")
    direction = [4, len(octets)] if reverse else [len(octets), 4]
    assert counted(talk)["octets"] == direction


@_WAY
@_EITHER
def test_each_read_is_one_write(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    before = other.transport.writes
    one.sends(b"x" * 1000, b"y", b"z" * 60_000)
    assert other.transport.writes == before + 3


# -- flow control


@_WAY
@_EITHER
def test_slow_reader_pauses_the_sender_and_lets_it_go_on(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    for _ in range(3):
        other.stops_reading()
        one.sends(b"x" * _MUCH, b"y" * 1000)
        assert not one.transport.reading
        assert other.transport.get_write_buffer_size() == _MUCH  # the rest is in the kernel
        other.reads(80_000)
        assert not one.transport.reading
        other.reads(10_000)
        assert one.transport.reading
        assert other.transport.get_write_buffer_size() == 11_000
        other.reads_on()
        other.gets(b"x" * _MUCH + b"y" * 1000)
    assert one.transport.pauses == 3


@_WAY
@_EITHER
def test_slow_reader_pauses_exactly_once_and_resumes_exactly_once(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * 65_536)
    assert one.transport.reading
    one.sends(b"x")
    assert (one.transport.reading, one.transport.pauses) == (False, 1)
    other.reads(49_152)
    assert not one.transport.reading
    other.reads(1)
    assert (one.transport.reading, one.transport.pauses) == (True, 1)
    other.reads_on()
    assert len(other.takes()) == 65_537
    other.sends(b"the other way was free all the time")
    one.gets(b"the other way was free all the time")


@_WAY
@_EITHER
def test_memory_is_bounded_while_nobody_reads(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    for _ in range(50):
        one.sends(b"x" * _MUCH)  # all but the first stay in the kernel
    assert other.transport.get_write_buffer_size() < 2 * _MUCH
    other.reads_on()
    assert len(other.takes()) == 50 * _MUCH


@_WAY
def test_both_sides_may_block_each_other(converse, way: str) -> None:
    talk = converse()
    client, upstream = begin(talk, way)
    client.stops_reading()
    upstream.stops_reading()
    client.sends(b"a" * _MUCH)
    upstream.sends(b"b" * _MUCH)
    assert (client.transport.reading, upstream.transport.reading) == (False, False)
    client.reads_on()
    assert (client.transport.reading, upstream.transport.reading) == (False, True)
    upstream.reads_on()
    assert (client.transport.reading, upstream.transport.reading) == (True, True)
    assert (client.takes(), upstream.takes()) == (b"b" * _MUCH, b"a" * _MUCH)


def test_client_that_is_behind_already_pauses_the_upstream_from_the_first(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    client.stops_reading()
    upstream.sends(SWITCHING + b"x" * _MUCH)
    assert (upstream.transport.reading, upstream.transport.pauses) == (False, 1)
    upstream.sends(b"y")
    client.reads_on()
    client.gets(SWITCHING_DOWNSTREAM + b"x" * _MUCH + b"y")
    assert upstream.transport.reading


def test_client_that_was_behind_before_the_101_pauses_the_upstream(converse) -> None:
    talk = converse(max_response_head="1MiB")
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    client.stops_reading()
    hint = message("HTTP/1.1 103 Early Hints", "Link: " + "x" * 60_000)
    upstream.sends(hint, hint)
    assert upstream.transport.reading  # interim heads are bounded
    upstream.sends(SWITCHING)
    assert not upstream.transport.reading
    client.reads_on()
    assert upstream.transport.reading
    assert client.takes().endswith(SWITCHING_DOWNSTREAM)
    upstream.sends(b"x")
    client.gets(b"x")


@_WAY
def test_upstream_that_does_not_take_what_was_sent_ahead_leaves_the_client_paused(converse, way: str) -> None:
    talk = converse(listener={"max_read_ahead": "1MiB"})
    if way == "connect":
        talk.dialing = "hang"
    client = talk.client()
    client.sends((UPGRADE if way == "upgrade" else CONNECT) + b"x" * _MUCH)
    if way == "connect":
        talk.accepts()  # and it reads all the same, as what it has not read is the kernel's
        upstream = talk.upstream()
        upstream.gets(b"x" * _MUCH)
        return
    upstream = talk.upstream()
    upstream.takes()
    upstream.stops_reading()
    upstream.sends(SWITCHING)
    assert (client.transport.reading, client.transport.pauses) == (False, 1)
    upstream.reads_on()
    upstream.gets(b"x" * _MUCH)
    assert client.transport.reading


# -- FIN


@_WAY
@_EITHER
def test_fin_passes_on_and_the_other_way_stays_open(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    one.sends(b"last words")
    one.half_closes()
    other.gets(b"last words")
    assert (one.ended, other.ended) == ("open", "fin")
    talk.passes(100)
    other.sends(b"answer")
    one.gets(b"answer")
    other.half_closes()
    assert (one.ended, other.ended) == ("closed", "closed")
    _over(talk)


@_WAY
@_EITHER
def test_fin_behind_what_a_slow_reader_has_yet_to_take_loses_none_of_it(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    one.half_closes()  # which nobody reads yet
    assert other.ended == "open"
    other.reads(90_000)
    assert other.ended == "fin"
    other.half_closes()
    assert (one.ended, other.ended) == ("closed", "closed")
    assert other.transport.get_write_buffer_size() == 10_000
    other.reads_on()
    assert len(other.takes()) == _MUCH
    _over(talk)


@_WAY
@_EITHER
def test_sender_is_not_paused_nor_resumed_behind_its_fin(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * 60_000)
    one.half_closes()
    one.stops_reading()
    other.sends(b"y" * _MUCH)
    assert not other.transport.reading
    one.reads_on()
    other.reads_on()
    assert (one.transport.pauses, other.transport.pauses) == (0, 1)
    assert (len(one.takes()), len(other.takes())) == (_MUCH, 60_000)


@_WAY
def test_both_fins_at_once_end_it(converse, way: str) -> None:
    talk = converse()
    client, upstream = begin(talk, way)
    with talk.loop.running():
        client.transport.arrive(b"")
        upstream.transport.arrive(b"")
    talk.loop.settle()
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


# -- ends that know no half-closed connection


@pytest.mark.parametrize("said", [b"", b"bye"])
def test_fin_of_a_client_over_tls_ends_both_sides(converse, said: bytes) -> None:
    talk = converse()
    client, upstream = begin(talk, "upgrade", tls=True)
    if said:
        client.sends(said)
    client.half_closes()
    upstream.gets(said)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


@pytest.mark.parametrize("said", [b"", b"bye"])
def test_fin_of_an_upstream_ends_a_client_over_tls(converse, said: bytes) -> None:
    talk = converse()
    client, upstream = begin(talk, "upgrade", tls=True)
    if said:
        upstream.sends(said)
    upstream.half_closes()
    client.gets(said)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


def test_fin_of_a_client_ends_an_upstream_over_tls(converse) -> None:
    talk = converse(upstream="https://payments:8080")
    client, upstream = begin(talk, "upgrade")
    client.sends(b"x")
    client.half_closes()
    upstream.gets(b"x")
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


@pytest.mark.parametrize("reverse", [False, True])
def test_octets_on_their_way_reach_an_end_over_tls_before_it_is_closed(converse, reverse: bool) -> None:
    talk = converse(upstream="https://payments:8080")
    one, other = _turned(begin(talk, "upgrade", tls=True), reverse)
    other.stops_reading()
    one.sends(b"x" * 60_000)
    one.half_closes()
    assert (one.ended, other.ended) == ("closed", "closed")
    assert tunnels_of(talk) == 1
    other.reads_on()
    assert len(other.takes()) == 60_000
    _over(talk)


@pytest.mark.parametrize("reverse", [False, True])
def test_end_over_tls_that_does_not_answer_our_close_is_no_reset(converse, reverse: bool) -> None:
    talk = converse(upstream="https://payments:8080")
    one, other = _turned(begin(talk, "upgrade", tls=True), reverse)
    one.transport.agrees = False
    other.stops_reading()
    one.sends(b"x" * 60_000)
    one.half_closes()
    talk.do(one.transport.fail, _TIMED_OUT)
    other.reads_on()
    assert other.ended == "closed"
    assert len(other.takes()) == 60_000
    _over(talk)


def test_client_that_closed_its_side_is_not_reset_by_an_upstream_that_does_not_answer_our_close(converse) -> None:
    talk = converse(upstream="https://payments:8080")
    client, upstream = begin(talk, "upgrade")
    upstream.transport.agrees = False
    client.half_closes()
    talk.do(upstream.transport.fail, _TIMED_OUT)
    assert client.ended == "closed"
    _over(talk)


@pytest.mark.parametrize("reverse", [False, True])
def test_end_over_tls_that_vanishes_without_a_word_ends_the_other_side(converse, reverse: bool) -> None:
    talk = converse(upstream="https://payments:8080")
    one, other = _turned(begin(talk, "upgrade", tls=True), reverse)
    one.sends(b"x")
    one.closes()
    other.gets(b"x")
    assert other.ended == "closed"
    _over(talk)


# -- RST


@_WAY
@_EITHER
def test_reset_of_one_side_resets_the_other(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    one.sends(b"x")
    one.resets()
    other.gets(b"x")
    assert other.ended == "reset"
    _over(talk)


@_WAY
@_EITHER
def test_reset_behind_a_fin_resets_the_other(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    one.half_closes()
    one.resets()
    assert other.ended == "reset"
    _over(talk)


@_WAY
@_EITHER
def test_reset_of_the_side_that_is_sent_to_resets_the_sender(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH, b"y")
    other.resets()
    assert one.ended == "reset"
    _over(talk)


@_WAY
def test_both_reset_at_once(converse, way: str) -> None:
    talk = converse()
    client, upstream = begin(talk, way)
    with talk.loop.running():
        client.transport.fail(_RESET)
        upstream.transport.fail(_RESET)
    talk.loop.settle()
    _over(talk)


@_WAY
@_EITHER
def test_octets_for_an_end_that_is_gone_go_nowhere(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    with talk.loop.running():
        other.transport.fail(_RESET)
        one.transport.arrive(b"x")  # before anybody has been told
    talk.loop.settle()
    assert one.ended == "reset"
    _over(talk)


@_WAY
@_EITHER
def test_end_that_closes_without_fin_lets_the_other_take_what_is_left(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    one.closes()
    assert (other.ended, tunnels_of(talk)) == ("closed", 1)
    other.reads_on()
    assert len(other.takes()) == _MUCH
    _over(talk)


# -- time

_TIMEOUT = {"tunnel": "10s", "idle": "4s"}


@_WAY
def test_silent_tunnel_is_closed(converse, way: str) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = begin(talk, way)
    talk.passes(9.9)
    assert (client.ended, upstream.ended) == ("open", "open")
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


@_WAY
@_EITHER
def test_tunnel_with_octets_in_one_direction_is_not_silent(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    for _ in range(5):
        talk.passes(9)
        one.sends(b"x")
    other.gets(b"xxxxx")
    assert (one.ended, other.ended) == ("open", "open")
    talk.passes(10.1)
    assert (one.ended, other.ended) == ("closed", "closed")


@_WAY
@_EITHER
def test_fin_alone_keeps_no_tunnel(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    talk.passes(5)
    one.half_closes()
    talk.passes(5.1)
    assert (one.ended, other.ended) == ("closed", "closed")
    _over(talk)


@_WAY
@_EITHER
def test_slow_reader_that_takes_some_of_it_is_not_silent(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    for _ in range(5):
        talk.passes(9)
        other.reads(1000)
    assert (one.ended, other.ended) == ("open", "open")
    other.reads_on()
    assert len(other.takes()) == _MUCH


@_WAY
@_EITHER
def test_reader_that_takes_nothing_is_reset_for_it_lacks_what_was_sent(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH, b"y")
    talk.passes(10.1)
    assert (one.ended, other.ended, tunnels_of(talk)) == ("closed", "closed", 1)
    talk.passes(2.1)
    assert (one.ended, other.ended) == ("closed", "reset")
    assert other.transport.unsent_at_abort == _MUCH
    _over(talk)


@_WAY
@_EITHER
def test_closed_tunnel_has_a_moment_for_what_is_on_its_way(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    talk.passes(10.1)
    talk.passes(1.5)
    other.reads_on()
    assert len(other.takes()) == _MUCH
    assert other.ended == "closed"
    _over(talk)


@_WAY
@_EITHER
def test_slow_reader_gets_all_of_it_though_the_sender_has_gone(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    one.closes()
    for _ in range(10):
        talk.passes(3.9)
        other.reads(5000)
    assert (other.ended, tunnels_of(talk)) == ("closed", 1)
    other.reads_on()
    assert len(other.takes()) == _MUCH
    _over(talk)


@_WAY
@_EITHER
def test_reader_that_takes_nothing_when_the_sender_has_gone_is_given_up(converse, way: str, reverse: bool) -> None:
    talk = converse(timeout=_TIMEOUT)
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x" * _MUCH)
    one.closes()
    talk.passes(3.9)
    assert tunnels_of(talk) == 1
    talk.passes(0.2)
    assert other.ended == "reset"
    _over(talk)


def test_end_over_tls_that_never_answers_our_close_is_given_up(converse) -> None:
    talk = converse(upstream="https://payments:8080", timeout=_TIMEOUT)
    client, upstream = begin(talk, "upgrade")
    upstream.transport.agrees = False
    client.half_closes()
    talk.passes(20)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    _over(talk)


@_WAY
def test_standstill_of_the_process_is_no_silence(converse, way: str) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = begin(talk, way)
    talk.stands_still(100)
    talk.passes(9.8)
    assert (client.ended, upstream.ended) == ("open", "open")
    client.sends(b"x")
    upstream.gets(b"x")


@_WAY
def test_octets_that_come_in_the_tick_of_the_deadline_keep_the_tunnel(converse, way: str) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = begin(talk, way)
    talk.passes(9.95)
    client.sends_at_once(b"x")
    talk.passes(9)
    assert (client.ended, upstream.ended) == ("open", "open")


# -- the sidecar stops


@_WAY
def test_drain_closes_the_silent_ones(converse, way: str) -> None:
    talk = converse()
    silent = begin(talk, way)
    talk.passes(0.9)
    busy = begin(talk, way)
    talk.passes(0.2)
    busy[0].sends(b"x")
    talk.do(talk.listener.close_silent_tunnels, 1.0)
    assert [end.ended for end in (*silent, *busy)] == ["closed", "closed", "open", "open"]
    assert (talk.listener.tunnels, tunnels_of(talk)) == (1, 1)
    busy[0].sends(b"y")
    busy[1].gets(b"xy")
    talk.passes(1.1)
    talk.do(talk.listener.close_silent_tunnels, 1.0)
    _over(talk)


@_WAY
def test_drain_gives_what_is_on_its_way_a_moment(converse, way: str) -> None:
    talk = converse()
    client, upstream = begin(talk, way)
    client.stops_reading()
    upstream.sends(b"x" * _MUCH)
    talk.passes(1.1)
    for _ in range(3):  # it is looked for again and again
        talk.do(talk.listener.close_silent_tunnels, 1.0)
        talk.passes(0.5)
    assert tunnels_of(talk) == 1
    client.reads_on()
    assert len(client.takes()) == _MUCH
    _over(talk)


@_WAY
def test_shutdown_closes_all_and_waits_for_them(converse, way: str) -> None:
    talk = converse()
    client, upstream = begin(talk, way)
    client.stops_reading()
    upstream.sends(b"x")
    with talk.loop.running():
        shutdown = talk.loop.create_task(talk.listener.shutdown())
    talk.loop.settle()
    assert (client.ended, upstream.ended, shutdown.done()) == ("closed", "closed", False)
    client.reads_on()
    client.gets(b"x")
    assert shutdown.done()
    _over(talk)


@_WAY
@_EITHER
def test_abort_ends_both_sides_at_once(converse, way: str, reverse: bool) -> None:
    talk = converse()
    one, other = _turned(begin(talk, way), reverse)
    other.stops_reading()
    one.sends(b"x")
    talk.do(talk.listener.abort)
    assert (one.ended, other.ended) == ("closed", "reset")  # with RST where octets are lost
    _over(talk)


@_WAY
def test_connection_of_a_tunnel_counts_as_one_all_the_time(converse, way: str) -> None:
    talk = converse(listener={"max_connections": 1})
    client, upstream = begin(talk, way)
    assert (talk.listener.connections, talk.listener.tunnels, talk.listener.in_flight) == (1, 1, 0)
    talk.client().gets_refusal(503, "CONNECTION_LIMITED")
    upstream.half_closes()
    client.half_closes()
    assert talk.listener.connections == 0


def test_shutdown_that_waits_hears_of_the_last_tunnel(converse) -> None:
    talk = converse()
    client, _ = begin(talk, "connect")
    client.transport.flowing = False
    with talk.loop.running():
        waits = talk.loop.create_task(talk.listener._last_gone.wait())
    talk.loop.settle()
    assert not waits.done()
    client.resets()
    assert waits.done()


# -- what is counted, and written down


@_WAY
def test_tunnel_is_counted_at_its_beginning_and_written_down_at_its_end(converse, way: str) -> None:
    talk = converse()
    client = talk.client()
    trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    if way == "upgrade":
        client.sends(
            message("GET /chat?secret HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", trace)
        )
    else:
        talk.dialing = "hang"
        client.sends(message("CONNECT payments:8080 HTTP/1.1", "Host: a", trace))
    talk.passes(1)
    if way == "upgrade":
        upstream = talk.upstream()
        upstream.sends(SWITCHING)
    else:
        talk.accepts()
        upstream = talk.upstream()
    upstream.takes()
    method = "GET" if way == "upgrade" else "CONNECT"
    assert requests_of(talk) == {f"{method} 2xx upstream": 1}
    assert counted(talk) == {"opened": 1, "seconds": 0, "octets": [0, 0], "in_flight": 0}
    assert talk.log.lines == []
    client.sends(b"four")
    upstream.sends(b"seventy")
    talk.passes(60)
    assert counted(talk)["octets"] == [4, 7]
    client.half_closes()
    upstream.half_closes()
    (line,) = talk.log.lines
    assert line.octets == [4, 7]
    assert (line.dependency, line.method, line.code, line.attempts) == ("payments", method.encode(), None, 1)
    assert line.status == (101 if way == "upgrade" else 200)
    assert line.target == (b"/chat?secret" if way == "upgrade" else b"payments:8080")
    assert line.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert line.duration_s == pytest.approx(61)
    after = counted(talk)
    assert after.pop("seconds") == pytest.approx(60)  # for which it stood, without the second that it took to get it
    assert after == {"opened": 1, "octets": [4, 7], "in_flight": 0}
    assert requests_of(talk) == {f"{method} 2xx upstream": 1}
    assert talk.dependency.counters.client_gone == 0


def test_wait_in_the_queue_is_written_down_with_the_tunnel(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "5s"})
    other, client = talk.client(), talk.client()
    other.sends(message("GET /a HTTP/1.1", "Host: app"))
    first = talk.upstream()
    client.sends(UPGRADE)
    talk.passes(2)
    other.resets()
    second = talk.upstream()
    second.sends(SWITCHING)
    assert first.ended == "closed"
    second.resets()
    line = talk.log.lines[-1]
    assert (line.status, line.waited_s) == (101, pytest.approx(2))


@pytest.mark.parametrize("wants", [True, False])
def test_tunnel_is_written_down_only_where_it_is_wanted(converse, wants: bool) -> None:
    talk = converse()
    asked = []
    talk.log.wants = lambda *values: asked.append(values) or wants
    client, _ = begin(talk, "connect")
    talk.passes(2)
    client.resets()
    assert len(talk.log.lines) == wants
    ((status, rejected, duration_s),) = asked
    assert (status, rejected, duration_s) == (200, False, pytest.approx(2))


def test_tunnel_without_a_log(converse) -> None:
    talk = converse()
    talk.dependency.log = None
    client, _ = begin(talk, "connect")
    client.resets()
    _over(talk)


def test_counters_of_several_tunnels_add_up(converse) -> None:
    talk = converse()
    for _ in range(3):
        client, upstream = begin(talk, "connect")
        client.sends(b"xx")
        upstream.sends(b"y")
        talk.passes(10)
        client.resets()
    assert counted(talk) == {"opened": 3, "seconds": pytest.approx(30), "octets": [6, 3], "in_flight": 0}


# -- nothing is left


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Only what reference counts free is freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _alive() -> dict[str, int]:
    """How many there are of what a tunnel is made of."""
    names = [type(found).__name__ for found in gc.get_objects()]
    kinds = ("Tunnel", "TunnelEnd", "Exchange", "ConnectExchange", "UpstreamConnection", "Dial", "Task", "RequestHead")
    return {name: names.count(name) for name in kinds}


def _fins(talk: Conversation, client: Peer, upstream: Peer) -> None:
    client.half_closes()
    upstream.half_closes()


def _rst(talk: Conversation, client: Peer, upstream: Peer) -> None:
    upstream.resets()


def _silence(talk: Conversation, client: Peer, upstream: Peer) -> None:
    talk.passes(11)


def _never_reads(talk: Conversation, client: Peer, upstream: Peer) -> None:
    client.stops_reading()
    upstream.sends(b"x" * _MUCH)
    talk.passes(15)


def _drain(talk: Conversation, client: Peer, upstream: Peer) -> None:
    talk.do(talk.listener.close_silent_tunnels, 0.0)


def _abort(talk: Conversation, client: Peer, upstream: Peer) -> None:
    talk.do(talk.listener.abort)


@pytest.mark.parametrize("end", [_fins, _rst, _silence, _never_reads, _drain, _abort])
@_WAY
def test_tunnel_that_has_ended_is_freed_at_once(converse, without_collector: None, way: str, end) -> None:
    talk = converse(timeout=_TIMEOUT)
    before = _alive()
    for _ in range(3):
        client, upstream = begin(talk, way)
        assert _alive()["TunnelEnd"] == before["TunnelEnd"] + 2
        client.sends(b"x")
        end(talk, client, upstream)
        _over(talk)
        # The stage's own: a far end refers to the transport, and that to its protocol.
        client.transport._protocol = upstream.transport._protocol = None
    assert _alive() == before


@pytest.mark.parametrize("error", [OSError(111, "Connection refused"), "reset"])
def test_tunnel_that_never_stood_is_freed_at_once(converse, without_collector: None, error) -> None:
    talk = converse(timeout=_TIMEOUT)
    talk.dialing = error
    before = _alive()
    for _ in range(3):
        client = talk.client()
        client.sends(CONNECT)
        client.gets_answer()
    if isinstance(error, OSError):
        error.__traceback__ = None  # which refers to all that it came through
    for peer in talk._peers:
        if peer.protocol is None:
            peer.transport._protocol = None
    assert _alive() == before


@_WAY
def test_what_a_tunnel_was_asked_for_with_is_freed_when_it_stands(converse, without_collector: None, way: str) -> None:
    talk = converse()
    before = _alive()
    begin(talk, way)
    now = _alive()
    for name in ("Exchange", "ConnectExchange", "UpstreamConnection", "Dial", "Task"):
        assert now[name] == before[name], name


def test_objects_of_a_tunnel_say_what_state_they_are_in(converse) -> None:
    talk = converse()
    client, upstream = begin(talk, "connect")
    (tunnel,) = talk.listener._tunnels
    assert repr(tunnel) == "<Tunnel payments <TunnelEnd open> <TunnelEnd open> octets=[0, 0]>"
    client.stops_reading()
    upstream.sends(b"x" * _MUCH)
    client.half_closes()
    assert repr(tunnel) == f"<Tunnel payments <TunnelEnd eof blocked> <TunnelEnd open> octets=[0, {_MUCH}]>"
    upstream.resets()
    assert repr(tunnel) == f"<Tunnel payments <TunnelEnd lost blocked> <TunnelEnd lost> octets=[0, {_MUCH}]>"


def test_established_is_as_short_as_it_can_be() -> None:
    assert ESTABLISHED == b"HTTP/1.1 200 Connection established\r\n\r\n"
