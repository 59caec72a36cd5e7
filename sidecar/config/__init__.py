"""The configuration: `load` turns a YAML file into a `Config`, or into a report of every mistake in it.

`schema` has every key; `json_schema` describes them to editors.
"""

from typing import Any

from sidecar.config.addresses import Address, TcpAddress, UnixAddress, Upstream
from sidecar.config.loading import LoadResult, load, load_text
from sidecar.config.schema import Config, Defaults, Dependency, Listener, Metrics, Pool, Timeout
from sidecar.errors import Problem

__all__ = [
    "Address",
    "Config",
    "Defaults",
    "Dependency",
    "Listener",
    "LoadResult",
    "Metrics",
    "Pool",
    "Problem",
    "TcpAddress",
    "Timeout",
    "UnixAddress",
    "Upstream",
    "json_schema",
    "load",
    "load_text",
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors; see `sidecar.config.editor`, which a running sidecar does not load."""
    from sidecar.config import editor

    return editor.json_schema()
