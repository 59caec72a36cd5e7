"""Environment variables in values: `${NAME}`, `${NAME:-default}`, and `$${` for the two characters `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sidecar.config.mistake import Mistake

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")


def refers(text: str) -> bool:
    """Whether `substitute` would change `text` or find fault with it."""
    return "${" in text


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """`text` with every reference replaced. As in a shell, `:-default` also stands in for an empty variable.

    What a variable holds is not searched for further references. Raises `Mistake` for a variable that is not
    set and has no default, and for `${` that begins no reference."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            raise Mistake("has ${ without a name and }; write ${NAME} or ${NAME:-default}, or $${ for the text ${")
        if default is not None:
            return environ.get(name) or default
        if name not in environ:
            raise Mistake(f"needs the variable {name}, which is not set; set it or write ${{{name}:-default}}")
        return environ[name]

    return _REFERENCE.sub(value, text)
