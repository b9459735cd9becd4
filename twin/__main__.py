"""The command `twin`, and `python -m twin`."""

import signal
import sys
from types import FrameType
from typing import Final

INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status of a program that Ctrl-C ended, as shells count."""


def main() -> None:
    """Run a command. Ctrl-C ends it quietly at any time, also while it is still being imported; commands that
    have something to finish first listen for it themselves."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, _end)
    from twin.cli import main as command

    command()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
