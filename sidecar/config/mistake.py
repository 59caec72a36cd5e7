"""What a reader of a single value raises."""

from __future__ import annotations


class Mistake(ValueError):
    """A value that cannot be used. The text says what is allowed ("must be at least 1"); the report adds
    where the value stands and what it is, unless `show` is false because the value itself is not fit to
    print."""

    def __init__(self, message: str, *, show: bool = True) -> None:
        super().__init__(message)
        self.show = show
