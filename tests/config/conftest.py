"""What the tests of the configuration share: a file of one dependency, and the report on a text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config import Config, load_text
from sidecar.errors import ConfigError


@pytest.fixture
def report() -> Callable[..., list[str]]:
    """The lines of the report on a text, without the name of the file."""

    def lines(text: str, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, "f", environ)
        return [line.removeprefix("f:") for line in str(caught.value).split("\n")]

    return lines


@pytest.fixture
def config() -> Callable[..., Config]:
    """The configuration in a text that has no mistakes and no oddities."""

    def loaded(text: str, **environ: str) -> Config:
        result = load_text(text, "f", environ)
        assert result.warnings == []
        return result.config

    return loaded
