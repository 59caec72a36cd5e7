"""Apart from where it is raised: an exception inherits from what is not compiled, so its module cannot be either."""

from __future__ import annotations


class IllegalTransitionError(RuntimeError):
    """A transition that the table does not have: a defect in this program."""
