"""How the policies compose, told as conversations: who is let in, who waits, who is refused, what each end counts."""

from __future__ import annotations

import json
import time

import pytest

from tests.proxy.transcript import GET, OK, Conversation, Peer, message

FAIL = message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 2", body="no")
HEAD_OF_A_STREAM = message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 1000000", body="x")
ONE_FAILURE = {"circuit_breaker": {"consecutive_failures": 1}}


def asked(talk: Conversation) -> Peer | None:
    """The upstream's end of the connection on which the proxy has just sent something; None where it has not."""
    while not talk.no_upstream:
        talk.upstream()
    return next((peer for peer in talk._peers if peer.protocol is None and peer.transport.flushed), None)


class Asking:
    """A client with one request under way.

    Attributes:
        client: its end.
        upstream: the upstream's end of the connection that the request went out on; None where it did not.
        request: what came there.
    """

    def __init__(self, talk: Conversation, octets: bytes = GET) -> None:
        self.client = talk.client()
        self.client.sends(octets)
        self.upstream = asked(talk)
        self.request = b"" if self.upstream is None else self.upstream.takes()

    def gets(self, *octets: bytes) -> None:
        """The upstream answers."""
        assert self.upstream is not None
        self.upstream.sends(*octets)

    @property
    def status(self) -> int:
        return self.client.gets_answer().status


def ask(talk: Conversation, answer: bytes = OK, octets: bytes = GET) -> int:
    """The status of one request, to which the upstream, if it is asked, gives `answer`."""
    asking = Asking(talk, octets)
    if asking.upstream is not None:
        asking.gets(answer)
    status = asking.status
    asking.client.half_closes()
    return status


def trip(talk: Conversation) -> None:
    """Open the circuit by as many failures as that takes."""
    for _ in range(talk.gate.breaker.settings.consecutive_failures or 0):
        assert ask(talk, FAIL) == 503
    assert talk.state == "open"


def half_open(talk: Conversation) -> None:
    trip(talk)
    talk.passes(talk.gate.breaker.settings.open_for_s + 0.1)
    assert talk.state == "half_open"


def counts(talk: Conversation) -> tuple[int, int, int]:
    """Successes, failures and ignored ends so far."""
    success, failure, ignored = talk.dependency.counters.attempts
    return success, failure, ignored


# -- the circuit


def test_failures_open_the_circuit_and_the_refusal_says_all_about_it(converse) -> None:
    talk = converse()
    trip(talk)
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(503, "CIRCUIT_OPEN")
    assert talk.no_upstream
    assert answer.proxy_error == "destination_unavailable"
    assert answer.fields["retry-after"] == "30"
    body = json.loads(answer.body)
    assert body["retry_after"] == pytest.approx(30, abs=0.1)
    assert body["dependency"] == "payments"
    assert "5 failures in a row (consecutive_failures: 5)" in answer.detail
    assert "it probes in" in answer.detail
    assert client.ended == "open"


def test_upstreams_own_error_passes_untouched_and_is_logged_as_the_dependencys(converse) -> None:
    talk = converse()
    asking = Asking(talk)
    asking.gets(FAIL)
    assert asking.client.takes() == FAIL.replace(b"\r\n\r\n", b"\r\nVia: 1.1 sidecar\r\n\r\n")
    line = talk.log.lines[-1]
    assert (line.status, line.code, line.attempts) == (503, "DOWNSTREAM_ERROR", 1)


def test_open_becomes_half_open_on_time_without_traffic_and_its_trials_close_it(converse) -> None:
    talk = converse()
    trip(talk)
    talk.passes(29.9)
    assert [transition.state.value for _, transition in talk.diary] == ["open"]
    talk.passes(0.2)
    assert [transition.state.value for _, transition in talk.diary] == ["open", "half_open"]
    for _ in range(3):
        assert ask(talk) == 200
    assert talk.state == "closed"


def test_half_open_admits_exactly_its_trials_of_a_thousand_at_once(converse) -> None:
    talk = converse()
    half_open(talk)
    askings = [Asking(talk) for _ in range(1000)]
    under_way = [asking for asking in askings if asking.upstream is not None]
    refused = [asking for asking in askings if asking not in under_way]
    assert len(under_way) == 3
    assert len(refused) == 997
    answer = refused[0].client.gets_refusal(503, "CIRCUIT_OPEN")
    assert "half-open: all of its 3 trials (half_open.trials) are under way" in answer.detail


def test_trial_whose_client_leaves_gives_its_permit_back_and_decides_nothing(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}})
    half_open(talk)
    trial = Asking(talk)
    assert ask(talk) == 503
    trial.client.resets()
    assert talk.state == "half_open"
    assert ask(talk) == 200
    assert talk.state == "closed"


def test_late_failure_of_an_older_generation_does_not_open_the_circuit_again(converse) -> None:
    talk = converse(
        circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}},
        timeout={"first_byte": "10m", "total": "10m"},
    )
    late = [Asking(talk) for _ in range(3)]
    assert ask(talk, FAIL) == 503
    talk.passes(31)
    assert ask(talk) == 200
    assert talk.state == "closed"
    for asking in late:
        asking.gets(FAIL)
        assert asking.status == 503
    assert talk.state == "closed"


def test_reset_amid_the_body_is_a_failure_though_the_status_was_200(converse) -> None:
    talk = converse(**ONE_FAILURE)
    asking = Asking(talk)
    asking.gets(HEAD_OF_A_STREAM)
    asking.upstream.resets()
    assert talk.state == "open"
    assert asking.client.ended == "fin"
    assert (talk.log.lines[-1].status, talk.log.lines[-1].code) == (200, "DOWNSTREAM_FAILURE")


@pytest.mark.parametrize("how", ["refused", "hangs", "malformed", "silent", "stalls", "closes"])
def test_what_the_dependency_breaks_is_a_failure(converse, how: str) -> None:
    talk = converse(**ONE_FAILURE)
    if how == "refused":
        talk.dialing = ConnectionRefusedError(111, "Connection refused")
    elif how == "hangs":
        talk.dialing = "hang"
    asking = Asking(talk)
    if how == "hangs":
        talk.passes(1.1)
    elif how == "malformed":
        asking.gets(b"HTTP/1.1 abc\r\n\r\n")
    elif how == "silent":
        talk.passes(5.1)
    elif how == "stalls":
        asking.gets(HEAD_OF_A_STREAM)
        talk.passes(60.1)
    elif how == "closes":
        asking.upstream.closes()
    assert talk.state == "open"
    assert counts(talk) == (0, 1, 0)


def test_client_that_leaves_early_is_nobodys_failure_and_late_the_dependencys(converse) -> None:
    talk = converse(**ONE_FAILURE)
    asking = Asking(talk)
    talk.passes(0.9)
    asking.client.resets()
    assert (talk.state, counts(talk)) == ("closed", (0, 0, 1))
    asking = Asking(talk)
    talk.passes(1.1)
    asking.client.resets()
    assert (talk.state, counts(talk)) == ("open", (0, 1, 1))
    assert [(line.status, line.code) for line in talk.log.lines] == [(499, "CLIENT_GONE")] * 2


def test_client_that_leaves_before_its_request_is_whole_waited_for_nothing(converse) -> None:
    talk = converse(**ONE_FAILURE)
    asking = Asking(talk, message("POST /a HTTP/1.1", "Host: app", "Content-Length: 10", body="12345"))
    talk.passes(5)
    asking.client.resets()
    assert (talk.state, counts(talk)) == ("closed", (0, 0, 1))


@pytest.mark.parametrize("how", ["bad chunk", "stalls", "drain", "no descriptors", "too large", "no connection free"])
def test_what_is_not_the_dependencys_doing_never_counts(converse, how: str) -> None:
    talk = converse(**ONE_FAILURE, max_body="10B", pool={"max_connections": 1}, timeout={"total": "60s"})
    if how == "no descriptors":
        talk.dialing = OSError(24, "Too many open files")
        Asking(talk).client.gets_refusal(503, "OVERLOADED")
    elif how == "drain":
        asking = Asking(talk)
        talk.do(asking.client.protocol.end)
        asking.client.gets_refusal(503, "DRAINING")
    elif how == "no connection free":
        held, other = Asking(talk), Asking(talk)
        talk.passes(1.1)
        other.client.gets_refusal(503, "CONCURRENCY_LIMITED")
        held.gets(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 9", body="x"))
        held.client.resets()
    else:
        asking = Asking(talk, message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="1\r\na\r\n"))
        if how == "bad chunk":
            asking.client.sends(b"xyz\r\n")
            asking.client.gets_refusal(400, "BAD_REQUEST")
        elif how == "stalls":
            talk.passes(31)
            asking.client.gets_refusal(408, "REQUEST_TIMEOUT")
        else:
            asking.client.sends(b"b\r\n0123456789a\r\n")
            asking.client.gets_refusal(413, "BODY_TOO_LARGE")
    success, failure, ignored = counts(talk)
    assert (success, failure) == (0, 0)
    assert ignored >= 1
    assert talk.state == "closed"


def test_ignored_trials_neither_close_nor_open_a_half_open_circuit(converse) -> None:
    talk = converse(**ONE_FAILURE)
    half_open(talk)
    for _ in range(10):
        Asking(talk).client.resets()
    assert talk.state == "half_open"


def test_jump_of_the_wall_clock_changes_nothing(converse, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = converse(rate_limit={"rate": "1/minute"})
    trip_at = 5
    real = time.time
    for number, jump in enumerate((0, 3600, -3600, 86400, -86400)):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert ask(talk, FAIL) == (503 if number == 0 else 429)
    assert trip_at == 5
    assert talk.state == "closed"
    talk.passes(59)
    assert ask(talk) == 429
    talk.passes(1.1)
    assert ask(talk) == 200


def test_standstill_of_the_process_trips_nothing(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1, "slow_calls": {"slower_than": "1s", "min_calls": 1}})
    askings = [Asking(talk) for _ in range(5)]
    with talk.loop.running():
        talk.clock.seconds += 30  # and what has come meanwhile is read before the clock ticks
        for asking in askings:
            asking.upstream.transport.arrive(OK)
    talk.loop.settle()
    talk.passes(0.1)
    assert [asking.status for asking in askings] == [200] * 5
    assert talk.state == "closed"
    assert talk.gate.breaker.slow_calls == 0


def test_slow_calls_open_even_while_they_hang(converse) -> None:
    talk = converse(
        circuit_breaker={"slow_calls": {"slower_than": "1s", "threshold": "80%", "min_calls": 4}},
        timeout={"first_byte": "1m", "total": "1m"},
    )
    askings = [Asking(talk) for _ in range(4)]
    talk.passes(0.9)
    assert talk.state == "closed"
    talk.passes(0.2)
    assert talk.state == "open"
    assert talk.diary[-1][1].reason.value == "slow_calls"
    assert talk.dependency.counters.request_duration.sum_s == 0
    for asking in askings:
        asking.gets(OK)
        assert asking.status == 200


def test_slow_call_whose_dead_connection_is_replaced_is_one_slow_call(converse) -> None:
    talk = converse(
        circuit_breaker={"slow_calls": {"slower_than": "1s", "min_calls": 100}},
        timeout={"first_byte": "1m", "total": "1m"},
    )
    assert ask(talk) == 200
    asking = Asking(talk)
    talk.passes(1.1)
    asking.upstream.resets()
    talk.upstream().sends(OK)
    assert asking.status == 200
    talk.passes(5)
    view = talk.gate.breaker.view(talk.deadlines.read())
    assert (view.overdue, view.counts.slow) == (0, 1)
    assert talk.gate.breaker.slow_calls == 1


def test_response_that_streams_for_an_hour_holds_its_slot_and_is_neither_slow_nor_timed_out(converse) -> None:
    talk = converse(
        concurrency={"limit": 1},
        circuit_breaker={"consecutive_failures": 1, "slow_calls": {"slower_than": "1s", "min_calls": 1}},
    )
    asking = Asking(talk)
    asking.gets(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 3601", body="x"))
    for _ in range(3600):
        assert talk.gate.slots.in_use == 1
        talk.passes(1)
        asking.gets(b"x")
    assert talk.gate.slots.in_use == 0
    assert (talk.state, talk.gate.breaker.slow_calls, counts(talk)) == ("closed", 0, (1, 0, 0))


# -- together or not at all


def test_open_circuit_burns_no_token(converse) -> None:
    talk = converse(rate_limit={"rate": "1/minute", "burst": 2}, **ONE_FAILURE)
    trip(talk)
    assert talk.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(1)
    for _ in range(10):
        assert ask(talk) == 503
    assert talk.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(1)


def test_refusal_by_the_rate_leaks_no_permit_and_no_slot(converse) -> None:
    talk = converse(
        rate_limit={"rate": "2/minute", "burst": 2},
        concurrency={"limit": 5},
        circuit_breaker={"consecutive_failures": 1, "open_for": "1s", "half_open": {"trials": 1, "successes": 1}},
    )
    half_open(talk)
    assert ask(talk) == 200
    assert talk.state == "closed"
    for _ in range(5):
        assert ask(talk) == 429
    assert talk.gate.slots.in_use == 0


def test_permit_refused_by_a_ramp_gives_token_and_slot_back(converse) -> None:
    talk = converse(
        rate_limit={"rate": "1/hour", "burst": 10},
        concurrency={"limit": 5},
        circuit_breaker={
            "consecutive_failures": 1,
            "half_open": {"trials": 1, "successes": 1, "ramp": "10s"},
        },
    )
    half_open(talk)
    assert ask(talk) == 200
    before = talk.gate.bucket.tokens(talk.deadlines.read())
    client = talk.client()
    client.sends(GET)  # of the ramp's first moment, at which half of all chances are too few
    answer = client.gets_refusal(503, "CIRCUIT_OPEN")
    assert "lets traffic back slowly" in answer.detail
    assert talk.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(before)
    assert talk.gate.slots.in_use == 0


def test_rate_refusal_says_limit_and_exact_wait(converse) -> None:
    talk = converse(rate_limit={"rate": "30/minute", "burst": 1})
    assert ask(talk) == 200
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(429, "RATE_LIMITED")
    assert answer.fields["retry-after"] == "2"
    assert json.loads(answer.body)["retry_after"] == pytest.approx(2, abs=0.01)
    assert "30 requests a minute with bursts of 1 (rate_limit.rate)" in answer.detail
    assert answer.proxy_error == "http_request_denied"


def test_concurrency_refusal_says_limit_and_use(converse) -> None:
    talk = converse(concurrency={"limit": 1})
    held = Asking(talk)
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert "1 requests to payments are under way and 1 may be (concurrency.limit)" in answer.detail
    assert answer.fields["retry-after"] == "1"
    assert answer.proxy_error == "connection_limit_reached"
    held.gets(OK)
    assert held.status == 200
    assert ask(talk) == 200


# -- the queue


def test_queue_serves_in_order_of_arrival_as_slots_come_free(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"})
    first = Asking(talk, message("GET /0 HTTP/1.1", "Host: app"))
    waiting = [Asking(talk, message(f"GET /{number} HTTP/1.1", "Host: app")) for number in (1, 2, 3)]
    assert talk.no_upstream
    upstream = first.upstream
    talk.passes(1.1)
    upstream.sends(OK)
    for number, asking in enumerate(waiting, 1):
        assert upstream.takes().startswith(b"GET /%d " % number)
        upstream.sends(OK)
        assert asking.status == 200
    assert talk.dependency.counters.queue_wait.counts[-5:] == [3, 0, 0, 0, 0]
    assert [line.waited_s for line in talk.log.lines] == [0, *[pytest.approx(1.1, abs=0.05)] * 3]


def test_queue_serves_as_tokens_come(converse) -> None:
    talk = converse(rate_limit={"rate": "100/second", "burst": 1}, queue={"limit": 100, "max_wait": "10s"})
    clients = [talk.client() for _ in range(51)]
    for client in clients:
        client.sends(GET)
    talk.passes(0.251)
    sent = len(talk.dialed)
    assert sent == 26  # the burst, and one each 10 ms
    talk.passes(0.25)
    assert len(talk.dialed) == 51
    while not talk.no_upstream:
        talk.upstream().sends(OK)
    assert [client.gets_answer().status for client in clients] == [200] * 51


def test_who_waits_in_vain_gets_the_code_of_what_it_waited_for(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "2s"})
    held, waiting, full = Asking(talk), Asking(talk), Asking(talk)
    answer = full.client.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert "all 1 places in the queue are taken (queue.limit)" in answer.detail
    talk.passes(1.9)
    waiting.client.gets_nothing()
    talk.passes(0.2)
    answer = waiting.client.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert "it waited 2.0" in answer.detail
    held.client.resets()


def test_who_waits_in_vain_for_a_token_is_rate_limited(converse) -> None:
    talk = converse(rate_limit={"rate": "1/minute", "burst": 1}, queue={"limit": 5, "max_wait": "2s"})
    assert ask(talk) == 200
    waiting = Asking(talk)
    talk.passes(2.1)
    waiting.client.gets_refusal(429, "RATE_LIMITED")


def test_waiting_request_ends_with_its_total_deadline(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "1h"}, timeout={"total": "3s"})
    held = Asking(talk)
    held.gets(HEAD_OF_A_STREAM)
    waiting = Asking(talk)
    talk.passes(3.1)
    waiting.client.gets_refusal(503, "CONCURRENCY_LIMITED")
    held.client.resets()


def test_dependency_is_not_blamed_for_the_time_that_a_request_spent_in_the_queue(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "1h"}, timeout={"total": "3s"})
    held = Asking(talk)
    held.gets(HEAD_OF_A_STREAM)
    waiting = Asking(talk)
    talk.passes(2.9)
    held.client.resets()
    talk.passes(0.2)
    waiting.client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert counts(talk) == (0, 0, 2)
    hanging = Asking(talk)
    talk.passes(3.1)
    hanging.client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert counts(talk) == (0, 1, 2)


def test_waiter_that_leaves_is_passed_over(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"})
    held, leaves, stays = Asking(talk), Asking(talk), Asking(talk)
    leaves.client.resets()
    held.gets(OK)
    assert held.upstream.takes().startswith(b"GET ")
    held.gets(OK)
    assert stays.status == 200
    assert (talk.log.lines[0].code, talk.log.lines[0].attempts) == ("CLIENT_GONE", 0)


def test_circuit_that_opens_flushes_the_queue(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"}, **ONE_FAILURE)
    held = Asking(talk)
    waiting = [Asking(talk) for _ in range(3)]
    held.gets(FAIL)
    assert held.status == 503
    for asking in waiting:
        asking.client.gets_refusal(503, "CIRCUIT_OPEN")
    assert counts(talk) == (0, 1, 0)
    assert talk.dependency.counters.rejections["CIRCUIT_OPEN"] == 3


def test_body_of_a_waiting_request_is_paused_and_then_sent_whole(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"})
    held = Asking(talk)
    body = b"x" * 200_000
    waiting = Asking(
        talk, message("POST /b HTTP/1.1", "Host: app", f"Content-Length: {len(body)}", body=body[:100_000])
    )
    assert not waiting.client.transport.reading
    held.gets(OK)
    assert waiting.client.transport.reading
    waiting.client.sends(body[100_000:])
    upstream = held.upstream
    assert upstream.takes().endswith(body)
    upstream.sends(OK)
    assert waiting.status == 200


# -- retries

RETRY = {"retry": {"attempts": 3, "backoff": {"base": "100ms", "max": "1s"}}}


def test_listed_status_is_tried_again_after_a_backoff_that_holds_no_slot(converse) -> None:
    talk = converse(**RETRY, concurrency={"limit": 1})
    asking = Asking(talk)
    asking.gets(FAIL)
    asking.client.gets_nothing()
    assert talk.gate.slots.in_use == 0
    talk.passes(0.049)
    assert asking.upstream.takes() == b""
    talk.passes(0.002)
    assert asking.upstream.takes().startswith(b"GET /a ")
    asking.gets(OK)
    assert asking.status == 200
    assert counts(talk) == (1, 1, 0)
    assert talk.dependency.counters.retries == 1
    assert talk.log.lines[-1].attempts == 2


def test_last_answer_of_the_upstream_is_the_answer_when_all_attempts_fail(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    for number in range(3):
        assert number == 0 or asking.upstream.takes() == asking.request
        asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 1", body=str(number)))
        talk.passes(1)
    assert asking.client.takes().endswith(b"\r\n\r\n2")
    assert counts(talk) == (0, 3, 0)


def test_retry_that_gets_no_token_returns_the_last_upstream_answer(converse) -> None:
    talk = converse(**RETRY, rate_limit={"rate": "1/minute", "burst": 1})
    asking = Asking(talk)
    asking.gets(FAIL)
    talk.passes(1)
    assert asking.client.takes() == FAIL.replace(b"\r\n\r\n", b"\r\nVia: 1.1 sidecar\r\n\r\n")
    assert talk.dependency.counters.retries == 0


def test_retry_that_gets_no_token_is_paid_back(converse) -> None:
    retry = {"attempts": 2, "budget": {"ratio": "0%", "min_per_second": 1}}
    talk = converse(retry=retry, rate_limit={"rate": "1/minute", "burst": 1}, circuit_breaker={"mode": "off"})
    before = talk.dependency.budget.balance(talk.deadlines.read())
    Asking(talk).gets(FAIL)
    talk.passes(1)
    assert talk.dependency.budget.balance(talk.deadlines.read()) >= before


def test_retry_whose_client_leaves_during_the_backoff_is_paid_back(converse) -> None:
    retry = {"attempts": 2, "budget": {"ratio": "0%", "min_per_second": 1}}
    talk = converse(retry=retry)
    before = talk.dependency.budget.balance(talk.deadlines.read())
    for _ in range(3):
        asking = Asking(talk)
        asking.gets(FAIL)
        asking.client.resets()
        assert talk.dependency.budget.balance(talk.deadlines.read()) == before
    assert talk.dependency.counters.budget_exhausted == 0


def test_only_requests_that_are_made_pay_into_the_budget(converse) -> None:
    talk = converse(**RETRY, rate_limit={"rate": "1/hour", "burst": 1})
    for _ in range(50):
        ask(talk)
    assert talk.dependency.budget.balance(talk.deadlines.read()) == pytest.approx(1.2)


def test_head_response_is_retried_whatever_length_it_announces(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk, message("HEAD /a HTTP/1.1", "Host: app"))
    asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 1000000"))
    talk.passes(0.1)
    assert asked(talk) is not None


def test_failure_whose_retry_meets_an_open_circuit_stays_the_answer(converse) -> None:
    talk = converse(**RETRY, **ONE_FAILURE)
    asking = Asking(talk)
    asking.upstream.resets()
    assert talk.state == "open"
    talk.passes(1)
    asking.client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.no_upstream


def test_circuit_open_is_never_retried(converse) -> None:
    talk = converse(**RETRY, **ONE_FAILURE)
    trip_at = Asking(talk)
    trip_at.gets(FAIL)
    talk.passes(1)
    asking = Asking(talk)
    asking.client.gets_refusal(503, "CIRCUIT_OPEN")
    assert talk.loop.timers == []


def test_post_is_not_retried_once_a_byte_of_it_was_sent_unless_told(converse) -> None:
    post = message("POST /a HTTP/1.1", "Host: app", "Content-Length: 2", body="hi")
    talk = converse(**RETRY)
    asking = Asking(talk, post)
    asking.gets(FAIL)
    assert asking.status == 503
    talk = converse(retry={"attempts": 2, "methods": ["POST"]})
    asking = Asking(talk, post)
    asking.gets(FAIL)
    talk.passes(0.1)
    assert asking.upstream.takes() == asking.request
    asking.gets(OK)
    assert asking.status == 200


def test_post_of_which_nothing_was_sent_is_retried(converse) -> None:
    talk = converse(**RETRY)
    talk.dialing = ConnectionRefusedError(111, "Connection refused")
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 2", body="hi"))
    talk.dialing = "accept"
    talk.passes(0.1)
    upstream = talk.upstream()
    assert upstream.takes().endswith(b"\r\n\r\nhi")
    upstream.sends(OK)
    assert client.gets_answer().status == 200


def test_nothing_is_retried_after_the_first_byte_of_the_answer_went_out(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    asking.gets(HEAD_OF_A_STREAM)
    asking.upstream.resets()
    assert asking.client.ended == "fin"
    talk.passes(5)
    assert talk.no_upstream


def test_body_larger_than_what_is_kept_is_not_sent_again(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk, message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 70000", body="x" * 70_000))
    asking.gets(FAIL)
    assert asking.status == 503
    assert talk.loop.timers == []


def test_long_response_on_the_list_goes_out_as_it_comes(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Transfer-Encoding: chunked"))
    asking.client.gets_nothing()
    for _ in range(5):
        asking.gets(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    assert asking.client.takes().startswith(b"HTTP/1.1 503")
    asking.gets(b"0\r\n\r\n")
    assert asking.client.takes() == b"0\r\n\r\n"
    assert counts(talk) == (0, 1, 0)


def test_response_held_back_that_takes_too_long_goes_out_at_the_total_deadline(converse) -> None:
    talk = converse(**RETRY, timeout={"total": "3s", "idle": "10s"})
    asking = Asking(talk)
    asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 5", body="ab"))
    talk.passes(2.9)
    asking.client.gets_nothing()
    talk.passes(0.2)
    assert asking.client.takes().endswith(b"\r\n\r\nab")
    asking.gets(b"cde")
    asking.client.gets(b"cde")
    assert asking.client.ended == "open"


def test_response_held_back_whose_body_comes_in_pieces_is_one_answer_or_none(converse) -> None:
    talk = converse(retry={"attempts": 2, "backoff": {"base": "100ms", "max": "1s"}, "budget": {"min_per_second": 1}})
    pieces = (
        message("HTTP/1.1 503 Service Unavailable", "Date: x", "Transfer-Encoding: chunked", body="2\r\nno\r\n"),
        b"3\r\n, s\r\n",
        b"0\r\nX-T: 1\r\n\r\n",
    )
    asking = Asking(talk)
    for piece in pieces:
        asking.gets(piece)
        asking.client.gets_nothing()
    talk.passes(0.1)
    assert asking.upstream.takes() == asking.request
    asking.gets(OK)
    assert asking.status == 200
    asking = Asking(talk)
    asking.gets(*pieces)  # the budget has no second retry so soon, so this is the answer
    assert asking.client.takes().endswith(b"no, s\r\n0\r\nX-T: 1\r\n\r\n")


def test_response_that_says_it_will_be_too_long_to_be_kept_goes_out_at_once(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 100000", body="x"))
    assert asking.client.takes().endswith(b"\r\n\r\nx")
    asking.gets(b"x" * 99_999)
    asking.client.gets(b"x" * 99_999)
    assert talk.loop.timers == []


def test_response_held_back_that_breaks_off_is_a_failure_that_is_tried_again(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    asking.gets(message("HTTP/1.1 503 Service Unavailable", "Date: x", "Content-Length: 5", body="ab"))
    asking.upstream.resets()
    talk.passes(0.1)
    upstream = talk.upstream()
    upstream.sends(OK)
    assert asking.status == 200


def test_retry_after_of_the_upstream_is_honoured_where_it_fits(converse) -> None:
    talk = converse(**RETRY)
    busy = message("HTTP/1.1 503 Busy", "Date: x", "retry-after: 2", "Content-Length: 0")
    asking = Asking(talk)
    asking.gets(busy)
    talk.passes(1.9)
    assert asking.upstream.takes() == b""
    talk.passes(0.2)
    assert asking.upstream.takes()
    asking.gets(busy.replace(b"2", b"60", 1).replace(b"retry-after: 2", b"retry-after: 60"))
    assert asking.client.takes()


def test_client_that_leaves_during_a_backoff_leaves_nothing(converse) -> None:
    talk = converse(**RETRY)
    asking = Asking(talk)
    asking.gets(FAIL)
    assert len(talk.loop.timers) == 1
    asking.client.resets()
    assert talk.loop.timers == []
    assert counts(talk) == (0, 1, 0)
    assert talk.log.lines[-1].code == "CLIENT_GONE"


def test_in_an_outage_the_attempts_stay_within_the_budget(converse) -> None:
    talk = converse(
        retry={
            "attempts": 3,
            "backoff": {"base": "1ms", "max": "1ms"},
            "budget": {"ratio": "20%", "min_per_second": 0},
        },
        circuit_breaker={"mode": "off"},
    )
    talk.dialing = ConnectionRefusedError(111, "Connection refused")
    for _ in range(500):
        client = talk.client()
        client.sends(GET)
        talk.passes(0.05)
        client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert len(talk.dialed) <= 600
    assert talk.dependency.counters.retries == len(talk.dialed) - 500 >= 90
    assert talk.dependency.counters.budget_exhausted > 0
    assert talk.state == "disabled"


def test_chunked_request_is_sent_again_with_its_trailers(converse) -> None:
    talk = converse(**RETRY)
    body = b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"
    asking = Asking(talk, message("PUT /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body=body))
    assert asking.request.endswith(body)
    asking.gets(FAIL)
    talk.passes(0.1)
    assert asking.upstream.takes() == asking.request
    asking.gets(OK)
    assert asking.status == 200


EARLY_HINTS = message("HTTP/1.1 103 Early Hints", "Link: " + "x" * 40_000)


def behind(talk: Conversation) -> Asking:
    """A client that is behind by more than a buffer, and has had no answer to its request yet."""
    asking = Asking(talk)
    asking.client.stops_reading()
    asking.gets(EARLY_HINTS, OK)
    asking.client.sends(GET)
    asking.gets(EARLY_HINTS)
    assert asking.client.transport.get_write_buffer_size() > 65_536
    return asking


def test_attempt_behind_one_that_blocked_the_client_is_paused_too(converse) -> None:
    talk = converse(**RETRY)
    asking = behind(talk)
    asking.upstream.resets()
    talk.passes(0.1)
    upstream = talk.upstream()
    body = b"x" * 1_000_000
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", f"Content-Length: {len(body)}"))
    for at in range(0, len(body), 50_000):
        upstream.sends(body[at : at + 50_000])
    assert asking.client.transport.get_write_buffer_size() < 100_000
    assert not upstream.transport.reading
    asking.client.reads_on()
    assert asking.client.takes().endswith(b"\r\n\r\n" + body)
    assert upstream.transport.reading


def test_upstream_is_read_up_to_its_final_head_and_then_paused_for_a_client_that_is_behind(converse) -> None:
    talk = converse(**ONE_FAILURE)
    asking = behind(talk)
    talk.passes(4.9)
    asking.gets(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 3"), b"abc")
    talk.passes(50)
    assert not asking.upstream.transport.reading
    asking.client.reads_on()
    assert asking.client.takes().endswith(b"\r\n\r\nabc")
    assert counts(talk) == (2, 0, 0)


# -- fallback, modes, candidates

FALLBACK = {
    "fallback": {
        "on": ["CIRCUIT_OPEN"],
        "status": 200,
        "headers": {"Content-Type": "application/json"},
        "body": '{"items": []}',
    }
}


def test_fallback_answers_in_place_of_the_refusal_and_says_so(converse) -> None:
    talk = converse(**ONE_FAILURE, **FALLBACK)
    trip(talk)
    client = talk.client()
    client.sends(GET)
    answer = client.gets_answer()
    assert (answer.status, answer.body) == (200, b'{"items": []}')
    assert answer.fields["content-type"] == "application/json"
    assert answer.proxy_error == "destination_unavailable"
    assert answer.fields["proxy-status"].endswith("; fallback")
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 0"))
    client.gets_refusal(503, "CIRCUIT_OPEN")
    assert talk.dependency.counters.rejections["CIRCUIT_OPEN"] == 2


def test_policy_that_is_off_refuses_nothing_and_shows_it(converse) -> None:
    talk = converse(
        circuit_breaker={"mode": "off"},
        rate_limit={"mode": "off", "rate": "1/hour"},
        concurrency={"mode": "off", "limit": 1},
    )
    for _ in range(10):
        assert ask(talk, FAIL) == 503
    assert talk.state == "disabled"
    assert talk.log.lines[-1].code == "DOWNSTREAM_ERROR"
    assert talk.dependency.admission.candidates == []


def test_shadow_refuses_nothing_and_tells_what_it_would_have_refused(converse) -> None:
    talk = converse(
        circuit_breaker={"mode": "shadow", "consecutive_failures": 1}, rate_limit={"mode": "shadow", "rate": "2/hour"}
    )
    assert ask(talk, FAIL) == 503
    for _ in range(3):
        assert ask(talk) == 200
    (candidate,) = talk.dependency.admission.candidates
    assert candidate.name == "shadow"
    assert candidate.refused == [3, 0, 0]
    assert talk.state == "disabled"
    assert [(name, transition.state.value) for name, transition in talk.diary] == [("shadow", "open")]
    talk.passes(31)
    assert candidate.gate.breaker.state.value == "half_open"


def test_candidate_inherits_what_it_does_not_say_and_simulates_only_what_it_names(converse) -> None:
    talk = converse(
        circuit_breaker={"consecutive_failures": 7, "open_for": "20s"},
        rate_limit={"rate": "1000/second"},
        candidates={"stricter": {"circuit_breaker": {"consecutive_failures": 2}}},
    )
    (candidate,) = talk.dependency.admission.candidates
    assert candidate.gate.breaker.settings.consecutive_failures == 2
    assert candidate.gate.breaker.settings.open_for_s == 20
    assert candidate.gate.bucket is None
    for _ in range(3):
        ask(talk, FAIL)
    assert (talk.state, candidate.gate.breaker.state.value, candidate.refused) == ("closed", "open", [1, 0, 0])


def test_what_the_enforced_policies_refuse_no_candidate_observes(converse) -> None:
    talk = converse(rate_limit={"rate": "1/hour", "burst": 1}, candidates={"looser": {"rate_limit": {"burst": 10}}})
    for _ in range(4):
        ask(talk)
    (candidate,) = talk.dependency.admission.candidates
    assert (candidate.unobserved, candidate.refused) == (3, [0, 0, 0])
    assert candidate.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(9, abs=0.01)


def test_concurrency_of_a_candidate_counts_requests_under_way(converse) -> None:
    talk = converse(candidates={"narrow": {"concurrency": {"limit": 1}}})
    one, other = Asking(talk), Asking(talk)
    (candidate,) = talk.dependency.admission.candidates
    assert candidate.refused == [0, 0, 1]
    for asking in (one, other):
        asking.gets(OK)
        assert asking.status == 200
    assert candidate.gate.slots.in_use == 0


# -- what is left behind


def test_trip_leaves_a_record_with_what_led_to_it(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 3})
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for _ in range(2):
        ask(talk, FAIL)
    traced = Asking(talk, message("GET /a HTTP/1.1", "Host: app", f"TraceParent: 00-{trace}-00f067aa0ba902b7-01"))
    traced.gets(b"HTTP/1.1 ")  # touched, so that no fresh connection replaces it
    traced.upstream.resets()
    assert talk.state == "open"
    (record,) = talk.dependency.trips.records
    told = record.as_dict()
    assert (told["reason"], told["from"], told["dependency"]) == ("consecutive_failures", "closed", "payments")
    assert told["window"] == {"calls": 2, "failures": 2, "slow": 0, "timed": 0, "consecutive_failures": 3} | {
        "calls": told["window"]["calls"],
        "failures": told["window"]["failures"],
    }
    assert [sample.get("status", sample.get("error")) for sample in told["last_failures"]][:2] == [503, 503]
    assert told["last_failures"][-1]["trace_id"] == trace
    assert told["thresholds"]["consecutive_failures"] == 3
    assert told["probes_at"] > told["at"]
    json.dumps(told)


def test_no_more_than_fifty_trips_are_kept(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1, "open_for": "1s", "max_open_for": "1s"})
    for _ in range(60):
        assert ask(talk, FAIL) == 503
        talk.passes(1.2)
    assert len(talk.dependency.trips.records) == 50


def test_requests_are_counted_once_by_method_status_and_source(converse) -> None:
    talk = converse(**ONE_FAILURE)
    ask(talk)
    ask(talk, octets=message("PURGE /a HTTP/1.1", "Host: app"))
    ask(talk, FAIL)
    ask(talk)
    counters = talk.dependency.counters
    assert sum(counters.requests) == 4
    assert counters.in_flight == 0
    assert sum(counters.request_duration.counts) == 4
    assert sum(counters.upstream_duration.counts) == 3
    assert len(talk.log.lines) == 4


def test_forced_states_hold_and_end_by_themselves(converse) -> None:
    from sidecar.policy.states import State

    talk = converse()
    breaker = talk.gate.breaker
    talk.do(lambda: breaker.force(State.FORCED_OPEN, talk.deadlines.read(), 10))
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(503, "CIRCUIT_OPEN")
    assert "held open by hand for" in answer.detail
    talk.do(lambda: breaker.force(State.FORCED_CLOSED, talk.deadlines.read(), 10))
    for _ in range(10):
        assert ask(talk, FAIL) == 503
    assert talk.state == "forced_closed"
    talk.passes(11)
    assert talk.state == "closed"
