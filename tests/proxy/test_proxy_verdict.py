"""From the refusal that an attempt led to, to what its end says about the dependency."""

from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.errors import ConcurrencyLimited, Overloaded, Refusal, UpstreamFailure, UpstreamTimeout
from sidecar.policy.classify import Classifier, End, parse_statuses
from sidecar.policy.states import Outcome
from sidecar.proxy import verdict

CLASSIFIER = Classifier(parse_statuses(["5xx"]))


@pytest.mark.parametrize(
    ("refusal", "end", "outcome"),
    [
        (UpstreamFailure("x", "connection_refused"), End.CONNECT_ERROR, Outcome.FAILURE),
        (UpstreamFailure("x", "dns_error"), End.CONNECT_ERROR, Outcome.FAILURE),
        (UpstreamTimeout("x", "connection_timeout"), End.CONNECT_TIMEOUT, Outcome.FAILURE),
        (Overloaded("x"), End.LOCAL_ERROR, Outcome.IGNORED),
        (ConcurrencyLimited("x"), End.OWN_REFUSAL, Outcome.IGNORED),
    ],
)
def test_attempt_without_a_connection_failed_unless_that_was_our_own_doing(
    refusal: Refusal, end: End, outcome: Outcome
) -> None:
    assert verdict.without_connection(refusal) is end
    assert CLASSIFIER.outcome(end) is outcome


@pytest.mark.parametrize(
    ("refusal", "dead", "end", "outcome"),
    [
        (UpstreamFailure("x", "connection_terminated"), False, End.RESET, Outcome.FAILURE),
        (UpstreamFailure("x", "http_response_incomplete"), False, End.RESET, Outcome.FAILURE),
        (UpstreamFailure("x", "http_protocol_error"), False, End.MALFORMED, Outcome.FAILURE),
        (UpstreamFailure("x", "http_response_header_section_size"), False, End.MALFORMED, Outcome.FAILURE),
        (UpstreamTimeout("x"), False, End.IDLE_TIMEOUT, Outcome.FAILURE),
        (UpstreamFailure("x", "connection_terminated"), True, End.DEAD_CONNECTION, Outcome.IGNORED),
        (UpstreamTimeout("x"), True, End.IDLE_TIMEOUT, Outcome.FAILURE),
    ],
)
def test_connection_that_breaks_is_the_dependencys_failure_unless_it_was_dead_before(
    refusal: Refusal, dead: bool, end: End, outcome: Outcome
) -> None:
    assert verdict.broken(refusal, dead=dead) is end
    assert CLASSIFIER.outcome(end, 200) is outcome


def test_kind_of_a_refusal_decides_and_not_its_words() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refusal)]
    ours = {
        kind for kind in kinds if kind is not Refusal and verdict.without_connection(kind("x")) is not End.CONNECT_ERROR
    }
    assert ours == {Overloaded, ConcurrencyLimited, UpstreamTimeout}
