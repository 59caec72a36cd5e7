"""Ends the process when its loop has stopped turning: nobody would notice a sidecar that hangs but its application.

faulthandler waits in a thread of its own that needs no interpreter, so it works whatever the loop hangs in. Kubernetes
would come to the same end by `/livez`, later and without the stacks.

A process that was stopped as a whole for longer (SIGSTOP, a frozen container) is ended too when it is let on, as a
rule: to the thread the two look alike. Decision 15 says why that is accepted.
"""

from __future__ import annotations

import faulthandler
import sys
from typing import Final, TextIO

PATIENCE_S: Final = 30.0
"""How long the loop may stand still."""


class Watchdog:
    """Dumps all stacks and ends the process with status 1 when `feed` has not been called for a while.

    Args:
        patience_s: for how long, in seconds.
        file: where the stacks go; it needs a descriptor.
    """

    def __init__(self, patience_s: float = PATIENCE_S, file: TextIO = sys.stderr) -> None:
        self._patience_s = patience_s
        self._file = file

    def feed(self) -> None:
        """The loop turns; to be called about once a second, for it starts a thread (50 µs)."""
        faulthandler.dump_traceback_later(self._patience_s, exit=True, file=self._file)

    def stop(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()
