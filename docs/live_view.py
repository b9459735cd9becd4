"""Draws the README's picture: the live view of a source that runs, as it is after some seconds.

twin run --scenario drift          # in another terminal
python docs/live_view.py 45 docs/live.svg
"""

from __future__ import annotations

import io
import re
import sys
import time

from rich.console import Console

from twin import Subscriber, endpoint
from twin.address import PUBLISHERS
from twin.dashboard import Dashboard
from twin.messages import Message


def draw(seconds: float, path: str, source: str = "motor-1") -> None:
    """Listen to a source for a while and write its live view as SVG."""
    dashboard = Dashboard(source)
    dashboard.states = dict.fromkeys(("plant", "twin", "trainer", "monitor"), ("running", 0))
    topics = [f"{kind}/{source}" for kind in ("event", "spec", "members")]
    with Subscriber[Message]([endpoint(source, who) for who in PUBLISHERS], topics) as messages:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            message = messages.recv(0.5)
            if message is not None:
                dashboard.observe(message)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(dashboard.render())
    picture = console.export_svg(title="twin run")
    with open(path, "w") as file:  # noqa: PTH123
        file.write(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))  # no font from elsewhere


if __name__ == "__main__":
    draw(float(sys.argv[1]), sys.argv[2])
