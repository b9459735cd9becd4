"""All settings, one frozen section per part, and their defaults; `twin.settings` reads them.

The text under each field is also its `--help`.

>>> Config().trainer.model
'auto'
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from twin.address import endpoint
from twin.defaults import ADAPT, BACKEND, MOTOR, WINDOW
from twin.families import AUTO, FAMILIES, OWN, RECURSIVE


class Section(BaseModel):
    """What the sections share: frozen, strict about keys, fields described by the text under them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class BusConfig(Section):
    """Who is heard where."""

    source: str = ""
    """Name of the motor on the bus; stands in every topic. Default: motor-1, or the recording's file name."""
    plant_endpoint: str = ""
    """Where the plant publishes samples: tcp://127.0.0.1:PORT or ipc:///PATH. Default: a Unix socket in a
    directory of this user's."""
    twin_endpoint: str = ""
    """Where the twin publishes predictions; as --plant-endpoint."""
    trainer_endpoint: str = ""
    """Where the trainer publishes its decisions; as --plant-endpoint."""
    forecast_endpoint: str = ""
    """Where the twin is asked for forecasts; as --plant-endpoint."""
    unpaced: bool = False
    """Run as fast as the slowest process reads, instead of in real time. Nothing is lost. All processes of a
    source must agree on it."""
    await_subscribers: int = Field(0, ge=0)
    """Begin when so many programs listen (for `twin run`, beside its own), after 30 s at the latest."""

    def endpoint(self, publisher: str) -> str:
        """The endpoint of one of `twin.address.ENDPOINTS`: as set, or the default."""
        chosen = {
            "plant": self.plant_endpoint,
            "twin": self.twin_endpoint,
            "trainer": self.trainer_endpoint,
            "forecast": self.forecast_endpoint,
        }
        return chosen.get(publisher) or endpoint(self.source, publisher)


class PlantConfig(Section):
    """What is observed: a simulated motor or a recording."""

    plant: Literal["dc-motor", "recorded"] = "dc-motor"
    """What to observe: a simulated motor, or a recording (then --file, --inputs, --outputs)."""
    motor: str = MOTOR
    """Which motor to simulate; a wrong name lists the known ones."""
    without: list[str] = []
    """Effects of a real motor to leave out: ripple, stribeck, winding, shaft, driver or sensing (may be
    repeated)."""
    parameters: list[str] = []
    """Other motor parameters, NAME=VALUE in SI units, e.g. resistance=8.4 (may be repeated)."""
    voltage: str = ""
    """Voltage in V over time, e.g. step:12 or prbs:amplitude=8,hold=0.1; sums by +. Default: random steps."""
    load: str = ""
    """Load torque in N·m over time, which the twin does not measure; const:0 for none. Default: random steps
    and slow noise."""
    noise: bool = True
    """Whether the sensors are noisy and quantised."""
    rate: float = Field(1000.0, ge=0.1, le=20_000)
    """Samples per second of the simulated motor, Hz."""
    scenario: str = ""
    """What changes while it runs: a built-in name such as drift, or a TOML file."""
    seed: int = Field(1, ge=0)
    """Seed of excitation, load and noise."""
    file: str = ""
    """The recording: a CSV or Parquet file."""
    inputs: str = ""
    """Columns of the recording that drive the plant, separated by commas."""
    outputs: str = ""
    """Columns of the recording that are measured, separated by commas."""
    dt: float | None = Field(None, ge=1e-6, le=1e6)
    """Sample time of the recording, s. Default: from its column t_s."""
    duration: float | None = Field(None, gt=0, le=1e9)
    """End after this much of the plant's time, s. Default: until Ctrl-C, or the recording's end."""


class TwinConfig(Section):
    """How the stream is answered."""

    window: int = Field(WINDOW, ge=2, le=100_000)
    """Samples in the rolling window: what warms a new model's hidden state."""
    backend: Literal["compiled", "eager", "eager-cuda", "graph"] = BACKEND
    """The way to run a step: machine code for this CPU, torch on the CPU or on a CUDA device, or a CUDA
    graph."""
    adapt: bool = ADAPT
    """Let the model's linear readout follow the motor at every sample, between the refits; compiled backend
    only."""
    realtime: bool = False
    """Run the twin's loop before all other processes (SCHED_FIFO), on a core of its own, its memory locked,
    without pauses to collect garbage; what the system does not permit is said and left."""
    run_dir: str = ""
    """Directory of the checkpoints. Default: runs/SOURCE; for `twin run` a new one below it each time."""

    @property
    def adapts(self) -> bool:
        """Whether what answers learns at every sample: other backends than the compiled one do not."""
        return self.adapt and self.backend == "compiled"


class TrainerConfig(Section):
    """How the model is refitted."""

    model: str = AUTO
    """Models of the run, a list separated by commas: rls (linear, fitted by the twin itself from the first
    samples on); arx (linear); gru, lstm, rnn (carried hidden state) or window-rnn (a fresh one per window);
    for a DC motor also physics (its equations) and hybrid (these, corrected by a GRU). Several are mixed, by
    how well each does. auto is rls, gru and window-rnn, for a motor also physics and hybrid. FILE.py:CLASS is
    one of your own (docs/own-model.md)."""
    hidden_size: int = Field(32, ge=1, le=1024)
    """Hidden units of each layer."""
    layers: int = Field(1, ge=1, le=8)
    """Recurrent layers."""
    taps: int = Field(16, ge=1, le=256)
    """Newest samples that arx, and the linear part of gru, lstm and rnn besides the hidden state, sees."""
    sequence_length: int = Field(10, ge=1, le=1000)
    """Samples that one prediction of the window-rnn looks at; a step costs as much more."""
    period: float = Field(2.0, gt=0)
    """Refit when so much has been streamed since the last refit's end, s of the stream's time."""
    history: float = Field(60.0, gt=0)
    """Refit on this much of the recent stream, s."""
    horizon: int = Field(100, ge=1, le=100_000)
    """Samples of free run by which models are judged, after the window that warms them."""
    batch: int = Field(32, ge=1, le=4096)
    """Segments in one optimiser step."""
    steps: int = Field(100, ge=1)
    """Optimiser steps of one refit."""
    learning_rate: float = Field(3e-3, gt=0, le=1)
    """Step size of Adam, at most; within a refit it grows, then decays to zero."""
    model_seed: int = Field(1, ge=0)
    """Seed of the first weights and of the choice of segments."""

    @property
    def models(self) -> list[str]:
        """The names in `model`."""
        return [name.strip() for name in self.model.split(",")]

    @property
    def sizes(self) -> dict[str, int]:
        """What is asked of a model's sizes; a family takes those that it has."""
        return {
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "taps": self.taps,
            "window": self.sequence_length,
        }

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        for name in map(str.strip, model.split(",")):
            if ":" not in name and OWN not in name and name not in (AUTO, RECURSIVE, *FAMILIES):
                known = ", ".join((AUTO, RECURSIVE, *FAMILIES))
                raise ValueError(f"has {name!r}, which is none of {known}, nor FILE.py:CLASS")
        return model


class ReportConfig(Section):
    """What is written at the end."""

    report: str = ""
    """Write one JSON object with the run's figures to this file when it ends."""
    free_run: float = Field(1.0, gt=0)
    """Horizon of the free run in the report, s."""


class Config(BaseModel):
    """Every setting of livetwin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bus: BusConfig = BusConfig()
    plant: PlantConfig = PlantConfig()
    twin: TwinConfig = TwinConfig()
    trainer: TrainerConfig = TrainerConfig()
    report: ReportConfig = ReportConfig()


SECTIONS: dict[str, type[Section]] = {
    "bus": BusConfig,
    "plant": PlantConfig,
    "twin": TwinConfig,
    "trainer": TrainerConfig,
    "report": ReportConfig,
}
