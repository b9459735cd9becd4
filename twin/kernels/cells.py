"""The cells: what becomes of a layer's sums and its state, for GRU, LSTM, Elman, and Elman with ReLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from twin.families import Cell
from twin.kernels.activations import Number, logistic_of, tanh_of
from twin.kernels.vectors import INDEX, LANES, POINTER, vector_at

Formula = Callable[..., tuple[Number, ...]]


def _gru(h: Number, c: Number, n_x: Number, r: Number, z: Number, n_h: Number) -> tuple[Number, ...]:
    """Cho et al. 2014, with r after the product with h, as in torch."""
    n = tanh_of(n_x + logistic_of(r) * n_h)
    return (n + logistic_of(z) * (h - n),)


def _lstm(h: Number, c: Number, i: Number, f: Number, g: Number, o: Number) -> tuple[Number, ...]:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    c = logistic_of(f) * c + logistic_of(i) * tanh_of(g)
    return logistic_of(o) * tanh_of(c), c


def _elman(h: Number, c: Number, x: Number) -> tuple[Number, ...]:
    """Elman 1990."""
    return (tanh_of(x),)


def _elman_relu(h: Number, c: Number, x: Number) -> tuple[Number, ...]:
    return (x.at_least(0.0),)


_CELLS: Final[dict[int, tuple[Formula, int]]] = {
    Cell.GRU: (_gru, 4),
    Cell.LSTM: (_lstm, 4),
    Cell.ELMAN: (_elman, 1),
    Cell.WINDOW: (_elman_relu, 1),
}


@intrinsic(prefer_literal=True)
def cell(typing: Any, kind: Any, p: Any, g: Any, q: Any, h: Any, c: Any, lanes: Any) -> Any:
    """New h, and for LSTM new c, in block q, from the sums g in block p.

    The sums of a layer are `lanes` numbers for each gate, one after the other. `kind`, a `Cell`, is
    a constant.
    """
    formula, blocks = _CELLS.get(kind.literal_value, (_elman_relu, 1))  # a linear model has no layers

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        _, p, g, q, h, c, lanes = arguments
        with cgutils.for_range_slice(b, INDEX(0), lanes, INDEX(LANES)) as (j, _):
            places = [vector_at(b, q, b.add(place, j)) for place in (h, c)]
            sums = [vector_at(b, p, b.add(b.add(g, j), b.mul(lanes, INDEX(i)))) for i in range(blocks)]
            numbers = [Number(b, b.load(place, align=4)) for place in (*places, *sums)]
            for new, place in zip(formula(*numbers), places, strict=False):
                b.store(new.value, place, align=4)
        return context.get_dummy_value()

    index = types.int64
    return types.none(kind, POINTER, index, POINTER, index, index, index), generate
