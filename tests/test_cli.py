"""The command: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

import sidecar
from sidecar.cli import main
from sidecar.config import json_schema
from tests.e2e.harness import (
    PATIENCE_S,
    ROOT,
    Sidecar,
    Upstream,
    Wire,
    connect,
    eventually,
    free_port,
    fresh_host,
    full_pipe,
    get,
    in_pipe,
)

VALID = """\
listen: {listen}
metrics: {{listen: "{metrics}"}}
dependencies:
  payments: {{upstream: "http://127.0.0.1:8080", prefix: /payments}}
"""


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    file, host = tmp_path / "valid.yaml", fresh_host()
    file.write_text(VALID.format(listen=f"{host}:{free_port(host)}", metrics=f"{host}:{free_port(host)}"))
    return file


def sidecar_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


# -- check


def test_check_says_that_a_configuration_is_valid(valid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(valid)]) == 0
    assert capsys.readouterr() == (f"{valid}: valid, 1 dependency\n", "")


def test_check_reports_every_mistake_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "listen: 127.0.0.1:99999\ndependencies:\n  a:\n    upsteam: http://x\n  b:\n    upstream: ftp://x\n"
    )

    assert main(["check", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    places = [line.split(": ")[:2] for line in err.splitlines()]
    assert places[0] == [f"{file}:1:9", "listen"]
    assert [f"{file}:4:5", "dependencies.a.upsteam"] in places
    assert [f"{file}:6:15", "dependencies.b.upstream"] in places


def test_check_prints_warnings_and_accepts(valid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = valid.read_text().replace("prefix: /payments", "prefix: /payments, timeout: {connect: 10s, total: 1s}")
    valid.write_text(text)

    assert main(["check", str(valid)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{valid}: valid, 1 dependency\n"
    assert err.startswith(f"{valid}:4:")
    assert ": warning: dependencies.payments.timeout" in err


@pytest.mark.parametrize("command", [["check"], ["run", "--config"], ["demo", "--config"]])
def test_file_that_cannot_be_read_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, str(tmp_path / "missing.yaml")]) == 1
    assert main([*command, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{tmp_path}/missing.yaml: there is no such file",
        f"{tmp_path}: is a folder; name the file in it",
    ]


@pytest.mark.parametrize("name", ["sidecar.yaml", "demo.yaml"])
def test_shipped_configurations_pass_without_a_warning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "config" / name

    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: valid, 1 dependency\n", "")


# -- schema


def test_schema_is_the_json_schema_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json_schema()
    assert "dependencies" in json.loads(out)["properties"]
    assert err == ""


# -- misuse


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "required: --config"),
        (["run", "file.yaml"], "required: --config"),
        (["check"], "required: FILE"),
        (["check", "a", "b"], "unrecognized arguments: b"),
        (["schema", "--fast"], "unrecognized arguments: --fast"),
        (["demo"], "required: --config"),
    ],
)
def test_misuse_is_explained_and_exits_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: sidecar")
    assert complaint in err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"sidecar {sidecar.__version__}\n"


# -- run


@pytest.mark.parametrize("command", ["run", "demo"])
def test_invalid_configuration_ends_before_anything_is_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    bound: list[object] = []
    monkeypatch.setattr("sidecar.app.run", bound.append)
    monkeypatch.setattr("sidecar.demo.run_demo", bound.append)
    file = tmp_path / "bad.yaml"
    file.write_text("listen: 127.0.0.1:21080\ndependencies: {a: {upstream: nonsense}}\n")

    assert main([command, "--config", str(file)]) == 1
    assert capsys.readouterr().err.startswith(f"{file}:2:30: dependencies.a.upstream: ")
    assert bound == []


def test_run_as_a_module_reports_an_invalid_configuration(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("dependencies: {a: {upstream: nonsense}}\n")
    done = sidecar_command("run", "--config", file)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}:1:30: dependencies.a.upstream: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["listen", "metrics"])
def test_port_that_is_taken_is_named_and_exits_1(valid: Path, tmp_path: Path, key: str) -> None:
    with Upstream() as other:
        taken = f"127.0.0.1:{other.port}"
        free = fresh_host()
        addresses = {"listen": f"{free}:{free_port(free)}", "metrics": f"{free}:{free_port(free)}"} | {key: taken}
        valid.write_text(VALID.format(**addresses))
        done = sidecar_command("run", "--config", valid)

    name = "metrics.listen" if key == "metrics" else key
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"sidecar: {name}: cannot listen on {taken}: Address already in use\n"


def test_interrupt_before_the_start_is_no_traceback(monkeypatch: pytest.MonkeyPatch, valid: Path) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidecar.cli._load", interrupted)

    assert main(["run", "--config", str(valid)]) == 128 + signal.SIGINT


def test_run_says_where_it_listens_and_serves(tmp_path: Path) -> None:
    with Upstream() as upstream, Sidecar(tmp_path, {"a": {"upstream": upstream.url, "prefix": "/a"}}) as running:
        assert running.ask(get("/a/x")).body == b"GET /x"
        ready = eventually(running.logged, "it has logged something")[0]
        assert ready["msg"] == f"ready: listening on {running.host}:{running.address[1]}"
        assert (ready["level"], ready["logger"]) == ("info", "sidecar")


def test_run_logs_up_to_its_end(tmp_path: Path) -> None:
    with Sidecar(tmp_path, {"a": {"upstream": "http://127.0.0.1:1", "prefix": "/a"}}) as running:
        pass

    assert [line["msg"].partition(":")[0] for line in running.logged()] == ["ready", "draining", "stopped"]
    assert running.err.read_text() == ""


def test_full_pipe_that_nobody_reads_holds_up_neither_requests_nor_the_end(tmp_path: Path) -> None:
    with full_pipe() as (reading, writing, filled), Upstream() as upstream:
        running = Sidecar(tmp_path, {"a": {"upstream": upstream.url, "prefix": "/a"}})
        running.stdout = writing
        with running:  # which ends it by SIGTERM and expects the exit status 0
            for number in range(20):
                assert running.ask(get(f"/a/{number}")).body == b"GET /%d" % number

        assert in_pipe(reading) == b"x" * filled, "nothing of the log has fitted in"


def test_log_goes_on_when_a_full_pipe_is_read_again(tmp_path: Path) -> None:
    with full_pipe() as (reading, writing, filled), Upstream() as upstream:
        running = Sidecar(tmp_path, {"a": {"upstream": upstream.url, "prefix": "/a"}})
        running.stdout = writing
        with running:
            assert running.ask(get("/a/x")).body == b"GET /x"
            read = bytearray()
            eventually(lambda: read.extend(in_pipe(reading)) or read.endswith(b"}\n"), "the log goes on")

    assert b'"msg":"ready: ' in read[filled:]


def test_reader_of_the_log_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with Upstream() as upstream:
            running = Sidecar(tmp_path, {"a": {"upstream": upstream.url, "prefix": "/a"}})
            running.stdout = writing
            with running:
                assert running.ask(get("/a/x")).body == b"GET /x"
    finally:
        os.close(writing)


def test_log_of_a_process_without_standard_output_goes_nowhere(valid: Path, tmp_path: Path) -> None:
    with Upstream() as upstream:
        valid.write_text(valid.read_text().replace("http://127.0.0.1:8080", upstream.url))
        config = yaml.safe_load(valid.read_text())
        host, _, port = config["listen"].rpartition(":")
        err = tmp_path / "stderr"
        closing = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "sidecar", "run", "--config", str(valid)]
        with err.open("wb") as stderr:
            process = psutil.Popen(closing, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=stderr)
        try:
            with eventually(lambda: connected(host, int(port)), "it listens") as wire:
                wire.send(get("/payments/x"))
                assert wire.response().body == b"GET /x"
            assert os.readlink(f"/proc/{process.pid}/fd/1") == os.devnull
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE_S)
        assert err.read_text() == ""


def connected(host: str, port: int) -> Wire | None:
    try:
        return connect((host, port))
    except ConnectionRefusedError:
        return None
