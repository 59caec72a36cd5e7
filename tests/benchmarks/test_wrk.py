"""The parser of wrk's output, and what it refuses to count."""

from __future__ import annotations

import pytest

from benchmarks.wrk import WrkError, parse

HEALTHY = """\
Running 1s test @ http://127.0.0.1:18999/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.09ms    3.82ms  34.06ms   92.66%
    Req/Sec    26.79k   149.69    27.03k    70.00%
  Latency Distribution
     50%  980.00us
     75%    1.57ms
     90%    2.56ms
     99%    1.02s
  26837 requests in 1.10s, 4.25MB read
Requests/sec:  26834.56
Transfer/sec:      4.25MB
"""


def with_lines(*lines: str) -> str:
    """The healthy output with lines of trouble where wrk puts them."""
    return HEALTHY.replace("Requests/sec:", "\n".join([*lines, "Requests/sec:"]))


def test_every_number_comes_in_the_unit_of_its_name() -> None:
    result = parse(HEALTHY)
    assert result.requests == 26837
    assert result.duration_s == pytest.approx(1.1)
    assert result.requests_per_s == 26834.56
    assert result.read_bytes == 4.25 * 1024 * 1024
    assert result.p50_us == 980
    assert result.p99_us == 1_020_000
    assert result.bad_statuses == 0
    assert not any(result.socket_errors.values())


def test_the_latency_of_the_threads_is_not_taken_for_a_percentile() -> None:
    """`92.66%` of the Latency line ends like a percentile."""
    assert parse(HEALTHY.replace("92.66%", "99%")).p99_us == 1_020_000


@pytest.mark.parametrize(
    ("printed", "size_bytes"),
    [("900.00B", 900), ("425.04KB", 425.04 * 2**10), ("9.50GB", 9.5 * 2**30), ("1.25TB", 1.25 * 2**40)],
)
def test_sizes_are_powers_of_1024(printed: str, size_bytes: float) -> None:
    assert parse(HEALTHY.replace("4.25MB read", f"{printed} read")).read_bytes == size_bytes


def test_minutes_are_seconds_too() -> None:
    assert parse(HEALTHY.replace("in 1.10s", "in 1.50m")).duration_s == 90


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused\n"])
def test_output_without_a_result_is_an_error(output: str) -> None:
    with pytest.raises(WrkError, match="no result"):
        parse(output)


def test_output_without_percentiles_is_an_error() -> None:
    with pytest.raises(WrkError, match="no result"):
        parse(HEALTHY.replace("     99%    1.02s\n", ""))


def test_a_healthy_run_has_no_fault() -> None:
    assert parse(HEALTHY).fault(answer_bytes=100) is None


def test_bad_statuses_are_a_fault() -> None:
    result = parse(with_lines("  Non-2xx or 3xx responses: 837"))
    assert result.bad_statuses == 837
    assert result.fault(100) == "837 of 26837 answers had a status of 400 or more"


def test_socket_errors_are_a_fault_and_named() -> None:
    result = parse(with_lines("  Socket errors: connect 0, read 12, write 0, timeout 3"))
    assert result.socket_errors == {"connect": 0, "read": 12, "write": 0, "timeout": 3}
    assert result.fault(100) == "socket errors: 12 read, 3 timeout"


def test_both_lines_of_trouble_are_read() -> None:
    result = parse(
        with_lines("  Socket errors: connect 1, read 0, write 0, timeout 0", "  Non-2xx or 3xx responses: 2")
    )
    assert (result.bad_statuses, result.socket_errors["connect"]) == (2, 1)


def test_answers_without_their_body_are_a_fault() -> None:
    """4.25 MB for 26,837 requests is 166 bytes each, heads included."""
    assert parse(HEALTHY).fault(answer_bytes=1000) == "answers were short: 166 of 1000 bytes each"


def test_a_run_without_answers_is_a_fault() -> None:
    output = HEALTHY.replace("26837 requests", "0 requests").replace("26834.56", "0.00")
    assert parse(output).fault(100) == "no request was answered"
