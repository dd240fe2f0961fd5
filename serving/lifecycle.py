"""How a serving process ends while it is still starting."""

import os
import signal
from types import FrameType


def exit_quietly_on_signals() -> None:
    """End without a stack trace on SIGINT or SIGTERM, until the server installs its own graceful handlers."""

    def leave(number: int, frame: FrameType | None) -> None:
        # Nothing is served yet, and an exception raised inside an import would be reported as a crash.
        os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
