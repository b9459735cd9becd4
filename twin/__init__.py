"""livetwin: a real-time digital twin that streams.

A plant publishes samples. A twin keeps a short memory, the window, and a long one, the hidden state, and
answers each sample with a prediction of the next and the residual of this one. A trainer refits the model on
recent samples. Other programs subscribe.

>>> import twin
>>> twin.Spec(inputs=("voltage",), outputs=("current", "speed"), dt=0.001).features
('voltage', 'current', 'speed')
>>> [name for name in dir(twin) if name.startswith("T")]
['Trainer', 'TrainerConfig', 'Twin', 'TwinError']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from twin.address import endpoint
    from twin.bus import Publisher, Subscriber
    from twin.checkpoint import Checkpoint
    from twin.config import TrainerConfig
    from twin.errors import TwinError
    from twin.evaluation import evaluate
    from twin.messages import Event, Members, Message, Parameters, Prediction, Sample, Spec
    from twin.pacer import Pacer
    from twin.questions import Reply, Request, Scenario
    from twin.service.fit import fit
    from twin.trainer import Trainer
    from twin.twin import Twin

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "Event",
    "Members",
    "Message",
    "Pacer",
    "Parameters",
    "Prediction",
    "Publisher",
    "Reply",
    "Request",
    "Sample",
    "Scenario",
    "Spec",
    "Subscriber",
    "Trainer",
    "TrainerConfig",
    "Twin",
    "TwinError",
    "__version__",
    "endpoint",
    "evaluate",
    "fit",
]

_MODULE_OF: Final = {
    "Checkpoint": "twin.checkpoint",
    "Pacer": "twin.pacer",
    "Publisher": "twin.bus",
    "Reply": "twin.questions",
    "Request": "twin.questions",
    "Scenario": "twin.questions",
    "Subscriber": "twin.bus",
    "Trainer": "twin.trainer",
    "TrainerConfig": "twin.config",
    "Twin": "twin.twin",
    "TwinError": "twin.errors",
    "endpoint": "twin.address",
    "evaluate": "twin.evaluation",
    "fit": "twin.service.fit",
}
"""Where all is that is no message. Nothing is imported before it is asked for: some of it brings Numba or
torch along, which who only publishes does not need, and the command `twin` can answer Ctrl-C at once."""


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF.get(name, "twin.messages")), name)


def __dir__() -> list[str]:
    """What there is for programs."""
    return __all__
