"""The command `sidecar`: argv to a command. What a command needs is imported when it runs, to start fast."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from sidecar import __version__

if TYPE_CHECKING:
    from sidecar.config import Config
    from sidecar.telemetry.sink import LogSink

_INVALID = 1
_STDOUT = 1

_LAST_LINES_S = 1.0
"""How long the end may wait for whoever reads the log."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it did what it was asked, 1 for an invalid configuration or a start that failed; a misuse of the
        command ends in SystemExit 2.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sidecar", description=sys.modules["sidecar"].__doc__)
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the sidecar until SIGTERM or Ctrl-C")
    run.add_argument("--config", metavar="FILE", required=True, help="its configuration, YAML")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="check a configuration and report every mistake in it")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(command=_check)

    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration, for editors")
    schema.set_defaults(command=_schema)

    demo = commands.add_parser("demo", help="run the sidecar in front of a demo dependency of its own")
    demo.add_argument("--config", metavar="FILE", required=True, help="a configuration with a dependency named demo")
    demo.set_defaults(command=_demo)
    return parser


def _load(path: str) -> Config | None:
    """The configuration, its warnings printed; None, its report printed, where it is invalid."""
    from sidecar.config import load
    from sidecar.errors import ConfigError

    try:
        result = load(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None
    for warning in result.warnings:
        print(warning, file=sys.stderr)
    return result.config


def _run(arguments: argparse.Namespace) -> int:
    with _lean_start():
        from sidecar.app import run
    return _serve(arguments.config, run)


def _demo(arguments: argparse.Namespace) -> int:
    from sidecar.demo import run_demo

    return _serve(arguments.config, run_demo)


def _serve(path: str, run: Callable[[Config, LogSink], int]) -> int:
    """Run what a configuration describes, until it is told to stop."""
    from sidecar.errors import StartError

    config = _load(path)
    if config is None:
        return _INVALID
    try:
        with _logs_on_stdout() as sink:
            return run(config, sink)
    except StartError as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return _INVALID


@contextlib.contextmanager
def _logs_on_stdout() -> Iterator[LogSink]:
    """Log as JSON on standard output meanwhile. What is logged behind it, as the process ends, goes where it went."""
    from sidecar.telemetry.logs import configure
    from sidecar.telemetry.sink import LogSink

    sink = LogSink(_standard_output())
    undo = configure(sink)
    try:
        yield sink
    finally:
        undo()
        sink.close(_LAST_LINES_S)


def _standard_output() -> int:
    """Its descriptor, past Python's buffers.

    Where the process was started without one, the number would go to what is opened next, and the log into somebody's
    connection; so /dev/null takes its place, and keeps it.
    """
    if sys.__stdout__ is not None:
        return _STDOUT
    descriptor = os.open(os.devnull, os.O_WRONLY)
    if descriptor != _STDOUT:
        os.dup2(descriptor, _STDOUT)
    return _STDOUT


@contextlib.contextmanager
def _lean_start() -> Iterator[None]:
    """Import what lives as long as the process, at the least cost in time and memory (docs/explanation/performance.md).

    The garbage collector has nothing to find in modules: it rests meanwhile, and never looks at them later. aiohttp
    makes a TLS context for its client on import, which parses every CA of the system (60 ms, 2 MB); no client of
    aiohttp's runs in this process, so OpenSSL is shown an empty store for that moment.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in names}
    gc.disable()
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        gc.freeze()
        gc.enable()


def _check(arguments: argparse.Namespace) -> int:
    config = _load(arguments.file)
    if config is None:
        return _INVALID
    count = len(config.dependencies)
    print(f"{arguments.file}: valid, {count} {'dependency' if count == 1 else 'dependencies'}")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from sidecar.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0
