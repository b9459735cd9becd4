"""livetwin: a real-time digital twin that streams.

A plant publishes samples. A twin keeps a short memory, the window, and a long one, the hidden state, and
answers each sample with a prediction of the next and the residual of this one. A trainer refits the model on
recent samples. Other programs subscribe.

>>> import twin
>>> twin.__all__
['Event', 'Prediction', 'Publisher', 'Sample', 'Spec', 'Subscriber', 'Twin', 'TwinError', 'endpoint']
"""

from typing import TYPE_CHECKING, Any

from twin.address import endpoint
from twin.bus import Publisher, Subscriber
from twin.errors import TwinError
from twin.messages import Event, Prediction, Sample, Spec

if TYPE_CHECKING:
    from twin.twin import Twin

__all__ = [
    "Event",
    "Prediction",
    "Publisher",
    "Sample",
    "Spec",
    "Subscriber",
    "Twin",
    "TwinError",
    "endpoint",
]


def __getattr__(name: str) -> Any:
    """`Twin` when it is asked for: it brings Numba along, and who only publishes needs none."""
    if name == "Twin":
        from twin.twin import Twin

        return Twin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
