"""The demo: what it prints works, and Ctrl-C ends it in good order."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from aiohttp.test_utils import TestClient

from sidecar.cli import main
from sidecar.config import load_text
from sidecar.demo import _invitation, demo_application
from tests.e2e.harness import PATIENCE_S, ROOT, connect, eventually, free_port, fresh_host, get, is_complaint, need

SHIPPED = (ROOT / "config" / "demo.yaml").read_text()


@dataclass
class Demo:
    process: psutil.Popen
    out: Path
    err: Path
    address: tuple[str, int]

    @property
    def printed(self) -> str:
        """What it says to whoever started it, before its log begins."""
        return "".join(line for line in self._lines if not line.startswith("{"))

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines if line.startswith("{")]

    @property
    def _lines(self) -> list[str]:
        return self.out.read_text().splitlines(keepends=True)

    @property
    def authority(self) -> str:
        return "{}:{}".format(*self.address)


def configuration(folder: Path, **changes: Any) -> tuple[Path, tuple[str, int]]:
    """The shipped file on addresses that are free, with a shorter timeout."""
    config = yaml.safe_load(SHIPPED)
    host = fresh_host()
    address = (host, free_port(host))
    config["listen"] = f"{host}:{address[1]}"
    config["metrics"]["listen"] = f"{host}:{free_port(host)}"
    config["drain_idle"] = "50ms"
    config["dependencies"]["demo"]["upstream"] = f"http://{host}:{free_port(host)}"
    config["dependencies"]["demo"]["timeout"]["first_byte"] = "1s"
    config["dependencies"]["demo"].update(changes)
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(config))
    return file, address


@contextlib.contextmanager
def running_demo(folder: Path, **changes: Any) -> Iterator[Demo]:
    file, address = configuration(folder, **changes)
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [sys.executable, "-m", "sidecar", "demo", "--config", str(file)]
        process = psutil.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        eventually(lambda: '"msg":"ready: ' in out.read_text() or process.poll() is not None, "the demo is ready")
        assert process.poll() is None, err.read_text()
        yield Demo(process, out, err, address)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


def blocks(text: str) -> list[str]:
    """The paragraphs that are there to be typed: the three requests, and the circuit."""
    paragraphs = (paragraph.splitlines() for paragraph in text.split("\n\n"))
    typed = [lines for lines in paragraphs if lines and all(line.startswith("  ") for line in lines)]
    return ["\n".join(line.removeprefix("  ") for line in lines) for lines in typed]


def test_the_three_lines_that_it_prints_work(demo: Demo) -> None:
    curl = need("curl")
    answers = []
    three, _ = blocks(demo.printed)
    for line in three.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        done = subprocess.run([curl, "--silent", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)

    assert [answer.splitlines()[0] for answer in answers] == [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 504 Gateway Timeout",
        "HTTP/1.1 502 Bad Gateway",
    ]
    assert '"path": "/hello"' in answers[0]
    assert "timeout.first_byte" in answers[1]
    assert "DOWNSTREAM_FAILURE" in answers[2]


def test_invitation_comes_before_the_log(demo: Demo) -> None:
    assert demo.out.read_text().startswith(demo.printed)
    assert demo.printed.strip().startswith("The demo dependency listens on ")
    assert demo.logged[0]["msg"] == f"ready: listening on {demo.authority}"


def test_the_block_that_it_prints_opens_and_closes_the_circuit(demo: Demo) -> None:
    need("curl")
    _, circuit = blocks(demo.printed)
    done = subprocess.run(
        [need("bash"), "-c", circuit], capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False
    )
    states = re.findall(r'^circuit_breaker_state\{dependency="demo",state="(\w+)"\} 1', done.stdout, re.MULTILINE)
    assert done.returncode == 0
    assert "curl: (" not in done.stderr
    assert states == ["closed", "open", "open", "half_open", "closed"]
    assert done.stdout.count("CIRCUIT_OPEN") == 1
    assert "3 failures in a row (consecutive_failures: 3)" in done.stdout

    def moves() -> list[tuple[str, str]]:
        return [(line["from"], line["to"]) for line in demo.logged if line.get("logger") == "sidecar.circuit"]

    eventually(lambda: len(moves()) >= 3, "the log has the last of them")
    assert moves() == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-steps.md"])
def test_page_shows_the_lines_that_it_prints(page: str) -> None:
    config = load_text(SHIPPED, environ={}).config
    three, circuit = blocks(_invitation(config, f"http://{config.listen}/demo"))
    text = (ROOT / page).read_text()
    shown = {tuple(shlex.split(line, comments=True)) for line in re.findall("^curl .*", text, re.MULTILINE)}
    assert {tuple(shlex.split(line, comments=True)) for line in three.splitlines()} <= shown
    assert f"```sh\n{circuit}\n```\n" in text


def test_interrupt_drains_and_exits_0(tmp_path: Path) -> None:
    patient = {"first_byte": "60s", "total": "70s"}
    with (
        running_demo(tmp_path, timeout=patient) as demo,
        connect(demo.address) as wire,
        connect(demo.address) as other,
    ):
        wire.send(get("/demo/slow?seconds=2"))
        other.send(get("/demo/hello"))
        assert other.response().status == 200
        demo.process.send_signal(signal.SIGINT)
        response = wire.response()

        assert (response.status, response.closes) == (200, True)
        wire.close()
        assert demo.process.wait(PATIENCE_S) == 0
        said = [line["msg"].partition(":")[0] for line in demo.logged if line.get("logger") == "sidecar"]
        assert said == ["ready", "draining", "stopped"]
        assert not any(map(is_complaint, demo.logged))
        assert demo.err.read_text() == ""


@pytest.mark.parametrize(
    ("name", "upstream", "listen"),
    [
        ("other", "http://127.0.0.1:1", "127.0.0.1:2"),
        ("demo", "unix:/run/demo.sock", "127.0.0.1:2"),
        ("demo", "https://127.0.0.1:1", "127.0.0.1:2"),
        ("demo", ["http://127.0.0.1:1", "http://127.0.0.1:3"], "127.0.0.1:2"),
        ("demo", "http://127.0.0.1:1", "unix:/run/shared.sock"),
    ],
)
def test_configuration_that_is_no_demo_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, upstream: str | list[str], listen: str
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(f"listen: {listen}\ndependencies: {{{name}: {{upstream: {upstream}, prefix: /demo}}}}\n")

    assert main(["demo", "--config", str(file)]) == 1
    assert "a dependency named demo" in capsys.readouterr().err


def test_demo_whose_port_is_taken_says_so(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = f"http://{demo.authority}"
    file, _ = configuration(tmp_path, upstream=taken)

    assert main(["demo", "--config", str(file)]) == 1
    assert f"the demo dependency cannot listen on {taken}" in capsys.readouterr().err


# -- the dependency itself


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 200),
        ("/anything/else?x=1", 200),
        ("/fail", 503),
        ("/fail?status=418", 418),
        ("/fail?status=600", 400),
        ("/fail?status=199", 400),
        ("/fail?status=nan", 400),
        ("/fail?status=inf", 400),
        ("/fail?status=many", 400),
        ("/slow?seconds=0", 200),
        ("/slow?seconds=-1", 200),
        ("/slow?seconds=long", 400),
        ("/slow?seconds=nan", 400),
    ],
)
async def test_demo_dependency_does_what_it_is_asked(aiohttp_client: Any, target: str, status: int) -> None:
    client: TestClient[Any, Any] = await aiohttp_client(demo_application())

    assert (await client.get(target)).status == status


async def test_demo_dependency_echoes_a_body(aiohttp_client: Any) -> None:
    client: TestClient[Any, Any] = await aiohttp_client(demo_application())
    response = await client.post("/echo", data=b"x" * 300_000, headers={"Content-Type": "text/x-test"})

    assert await response.read() == b"x" * 300_000
    assert response.content_type == "text/x-test"
