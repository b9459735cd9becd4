"""The live view: one more subscriber, which draws. It reads the events of a source and nothing else."""

from __future__ import annotations

from collections import deque
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from twin.messages import Event, Members, Message, Spec

BARS: Final = "▁▂▃▄▅▆▇█"
SPARKLINE_POINTS: Final = 60  # of the last output
_STATUS_STYLE: Final = {"following": "bold green", "unestimated": "yellow", "waiting": "dim"}
_STATE_STYLE: Final = {"running": "green", "restarting": "yellow", "failed": "bold red"}


def sparkline(values: list[float]) -> str:
    """Values as a line of small bars, the lowest at the bottom.

    >>> sparkline([0.0, 1.0, 2.0, 7.0])
    '▁▂▃█'
    """
    if not values:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


class Dashboard:
    """Keeps what the last events said, and draws it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.spec: Spec | None = None
        self.status = "waiting"
        self.figures: dict[str, float] = {}
        self.rate = 0.0
        self.t = 0.0
        self.trace: deque[float] = deque(maxlen=SPARKLINE_POINTS)
        self.decision = "no refit yet"
        self.happened: deque[str] = deque(maxlen=3)
        self.states: dict[str, tuple[str, int]] = {}
        self.members: Members | None = None
        self.leader = "", 0.0
        """The member with the largest weight, and since when, s."""
        self._counted: deque[tuple[float, float]] = deque(maxlen=11)  # (s, samples) of the last figures

    def observe(self, message: Message) -> None:
        """Take in what a message of the source says."""
        match message:
            case Spec():
                self.spec = message
            case Members():
                self._take_members(message)
            case Event(name="figures"):
                self._figures(message)
            case Event(name="accepted" | "kept" | "waiting" | "failed" | "refit"):
                prefix = "refitting on " if message.name == "refit" else ""
                self.decision = prefix + message.text
            case Event(
                name="change" | "swap" | "stale" | "refused" | "spec" | "end" | "alarm" | "calm" | "compiling"
            ):
                self.happened.append(f"{message.t:9.3f} s  {message.text}")

    def _take_members(self, message: Members) -> None:
        self.members = message
        leader = max(message.weights, key=lambda name: message.weights[name], default="")
        if leader != self.leader[0]:
            self.leader = leader, message.t

    def _figures(self, event: Event) -> None:
        self.figures, self.status = event.figures, event.text
        now, samples = event.sent_ns * 1e-9, event.figures.get("samples", 0.0)
        self._counted.append((now, samples))
        then, before = self._counted[0]
        if now > then:
            self.rate = max(samples - before, 0.0) / (now - then)
        if self.spec is not None and (value := event.figures.get(f"z.{self.spec.outputs[-1]}")) is not None:
            self.trace.append(value)

    def render(self, width: int | None = None) -> RenderableType:
        """The view, in so many columns (None: all there are)."""
        if self.spec is None:
            title = f"livetwin · {self.source}"
            return Panel("waiting for a plant", title=title, title_align="left", width=width)
        status = Text(self.status, _STATUS_STYLE.get(self.status, "bold red"))
        model = int(self.figures.get("model", 0))
        heading = Text.assemble("livetwin · ", (self.source, "bold"), f" · {self.spec.plant or 'plant'}")
        leader, since = self.leader
        answers = f"model {model}" if model else "persistence, no model yet"
        if leader:
            answers = f"{leader} leads since {since:.0f} s" + (f", model {model}" if model else "")
        lines: list[RenderableType] = [
            Text.assemble(status, f" · {answers} · sample every {self.spec.dt * 1e3:g} ms"),
            Text.assemble((sparkline(list(self.trace)), "cyan"), f" {self.spec.outputs[-1]}"),
            self._outputs(),
            *([self._bank(self.members)] if self.members else []),
            self._stream(),
            Text.assemble(("trainer  ", "bold"), self.decision),
        ]
        lines += [Text(text, "dim") for text in self.happened]
        if self.states:
            lines.append(self._processes())
        return Panel(Group(*lines), title=heading, title_align="left", subtitle="Ctrl-C ends", width=width)

    def line(self) -> str:
        """The view in one line, for where there is no terminal."""
        figures = self.figures
        quality = []
        for name in self._names():
            if f"ratio.{name}" in figures:
                quality.append(f"{name} {figures[f'ratio.{name}']:.3f} × floor")
            elif f"skill.{name}" in figures:
                quality.append(f"skill {name} {100 * figures[f'skill.{name}']:.1f} %")
        return "  ".join(
            [
                f"{self.status}",
                f"model {figures.get('model', 0):.0f}",
                f"samples {figures.get('samples', 0):.0f}",
                f"answered {figures.get('predictions', 0):.0f}",
                f"lost {figures.get('twin.lost', 0):.0f}",
                f"p50 {figures.get('p50_us', 0):.0f} µs",
                f"p99 {figures.get('p99_us', 0):.0f} µs",
                *quality,
            ]
        )

    def _names(self) -> tuple[str, ...]:
        return self.spec.outputs if self.spec else ()

    def _outputs(self) -> Table:
        """Each output's error, over that of the best observer (simulated plants) and beside persistence."""
        assert self.spec is not None
        floored = any(f"ratio.{name}" in self.figures for name in self.spec.outputs)
        table = Table(box=None, pad_edge=False, header_style="bold")
        headings = ["one step ahead", "now", "twin's error"]
        headings += ["floor", "× floor"] if floored else ["persistence's"]
        for heading in (*headings, "skill", "90 % within", "inside"):
            table.add_column(heading, justify="left" if heading == "one step ahead" else "right")
        keys = ("z", "rmse", "floor") if floored else ("z", "rmse", "persistence_rmse")
        for name in self.spec.outputs:
            unit = self.spec.unit(name)
            values = [self.figures.get(f"{key}.{name}") for key in keys]
            ratio, skill, width, inside = (
                self.figures.get(f"{key}.{name}") for key in ("ratio", "skill", "width", "coverage")
            )
            table.add_row(
                escape(f"{name} [{unit}]" if unit else name),
                *("" if value is None else f"{value:.4g}" for value in values),
                *([Text("" if ratio is None else f"{ratio:.3f}", "bold")] if floored else []),
                "" if skill is None else f"{100 * skill:.1f} %",
                "" if width is None else f"± {width / 2:.3g}",
                "" if inside is None else f"{100 * inside:.1f} %",
            )
        return table

    def _bank(self, members: Members) -> Table:
        """Each member's weight, and its error one step ahead over that of the best observer or of
        persistence."""
        assert self.spec is not None
        outputs = self.spec.outputs
        floored = any(f"floor.{name}" in self.figures for name in outputs)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("models, mixed")
        for heading in (
            "model",
            "weight",
            *(f"{name} × {'floor' if floored else 'pers.'}" for name in outputs),
        ):
            table.add_column(heading, justify="right")
        key = "floor" if floored else "persistence_rmse"
        for name, weight in members.weights.items():
            ratios = []
            for output in outputs:
                error, least = members.errors.get(name, {}).get(output), self.figures.get(f"{key}.{output}")
                ratios.append("" if error is None or not least else f"{error / least:.3g}")
            number = members.models.get(name, 0)
            shown = f"{BARS[min(int(8 * weight), 7)]} {100 * weight:3.0f} %"
            style = "bold" if name == self.leader[0] else ""
            table.add_row(escape(name), str(number) if number else "", shown, *ratios, style=style)
        return table

    def _stream(self) -> Table:
        figures = self.figures
        table = Table.grid(padding=(0, 3))
        table.add_row(
            Text.assemble(("latency  ", "bold"), f"p50 {figures.get('p50_us', 0):.0f} µs"),
            f"p99 {figures.get('p99_us', 0):.0f} µs",
            f"worst {figures.get('max_us', 0) / 1e3:.1f} ms",
        )
        table.add_row(
            Text.assemble(("samples  ", "bold"), f"{figures.get('samples', 0):,.0f}"),
            f"answered {figures.get('predictions', 0):,.0f}",
            f"{self.rate:,.0f}/s",
        )
        counters = ("lost", "gaps", "rejected", "restarts", "swaps", "alarms")
        lost = [f"{name} {figures.get(f'twin.{name}', 0):.0f}" for name in counters]
        table.add_row(Text.assemble(("counted  ", "bold"), lost[0]), lost[1], "   ".join(lost[2:]))
        return table

    def _processes(self) -> Text:
        text = Text("running  ", "bold")
        for name, (state, restarts) in self.states.items():
            again = f" (restarted {restarts}×)" if restarts else ""
            text.append(f"● {name}{again}  ", _STATE_STYLE.get(state, "dim"))
        return text
