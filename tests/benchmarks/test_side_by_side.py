"""What the command line chooses."""

from __future__ import annotations

import pytest

from benchmarks.profiles import PROFILES
from benchmarks.side_by_side import parse_arguments


def names(*arguments: str) -> list[str]:
    """The workloads that are sent."""
    return [workload.name for workload in parse_arguments(arguments).workloads]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_brings_its_workloads(profile: str) -> None:
    assert names("--profile", profile) == [workload.name for workload in PROFILES[profile].workloads]


def test_any_workload_can_be_sent_in_any_profile() -> None:
    assert names("--profile", "bare", "--workloads", "handshake,small-get") == ["small-get", "handshake"]


def test_an_unknown_workload_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--workloads", "huge-get"])
    assert "'huge-get' is not one of small-get, large-get, post, latency, handshake" in capsys.readouterr().err


def test_each_profile_has_a_file_of_its_own() -> None:
    assert len({parse_arguments(["--profile", profile]).json_path for profile in PROFILES}) == len(PROFILES)
