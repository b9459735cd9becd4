"""The cells once more, with what each passes back: for a loss, what their new state says of all they took in.

Forward they leave the gates where the sums were. Backward, dh and dc are the derivatives of the loss with
respect to the new h and c, and d_n, d_r, ... those with respect to the sums from which the gates came.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from numba import types
from numba.extending import intrinsic

from twin.families import GATES, Cell
from twin.kernels.activations import Number, exponential
from twin.kernels.matrices import Formula, elementwise


def _tanh(x: Number) -> Number:
    """tanh, m / (m + 2) with m = e^(2x) - 1: to 2e-7 of its value, by an estimated and refined reciprocal."""
    y = x.at_least(-10.0).at_most(10.0) if not x.double else x.at_least(-20.0).at_most(20.0)
    power, q = exponential(y + y)
    m = power * q + (power - 1.0)
    return m * (m + 2.0).reciprocal()


def _logistic(x: Number) -> Number:
    """1 / (1 + e^-x), to 2e-7 of its value."""
    power, q = exponential(-x.at_least(-87.0).at_most(87.0))
    return (power * q + power + 1.0).reciprocal()


def _gru(h: Number, c: Number, n: Number, r: Number, z: Number, n_h: Number) -> tuple[Number, ...]:
    """Cho et al. 2014, with r after the product with h, as in torch."""
    r, z = _logistic(r), _logistic(z)
    n = _tanh(n + r * n_h)
    return n, r, z, n_h, n + z * (h - n)


def _gru_back(
    dh: Number, dc: Number, h: Number, c: Number, after: Number, n: Number, r: Number, z: Number, n_h: Number
) -> tuple[Number, ...]:
    d_n = dh * (1.0 - z) * (1.0 - n * n)
    d_r = d_n * n_h * r * (1.0 - r)
    d_z = dh * (h - n) * z * (1.0 - z)
    return d_n, d_r, d_z, d_n * r, dh * z


def _lstm(h: Number, c: Number, i: Number, f: Number, g: Number, o: Number) -> tuple[Number, ...]:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    i, f, g, o = _logistic(i), _logistic(f), _tanh(g), _logistic(o)
    c = f * c + i * g
    return i, f, g, o, o * _tanh(c), c


def _lstm_back(
    dh: Number, dc: Number, h: Number, c: Number, after: Number, i: Number, f: Number, g: Number, o: Number
) -> tuple[Number, ...]:
    t = _tanh(after)
    dc = dc + dh * o * (1.0 - t * t)
    d_i, d_f = dc * g * i * (1.0 - i), dc * c * f * (1.0 - f)
    d_g, d_o = dc * i * (1.0 - g * g), dh * t * o * (1.0 - o)
    return d_i, d_f, d_g, d_o, h.constant(0.0), dc * f


def _elman(h: Number, c: Number, x: Number) -> tuple[Number, ...]:
    """Elman 1990."""
    h = _tanh(x)
    return h, h


def _elman_back(
    dh: Number, dc: Number, h: Number, c: Number, after: Number, own: Number
) -> tuple[Number, ...]:
    return dh * (1.0 - own * own), h.constant(0.0)


class Formulas(NamedTuple):
    """A cell's formulas, and the blocks of H sums of a layer."""

    forward: Formula
    """h, c and the sums to what the way back wants of the gates, new h, and new c if there is one."""
    backward: Formula
    """Gradients of new h and c, then h, c, new c and the gates to the gradients of the sums, h, and c."""
    gates: int
    """Blocks that x feeds, from the first on, and h, up to the last."""
    blocks: int


CELLS: Final[dict[int, Formulas]] = {
    Cell.GRU: Formulas(_gru, _gru_back, GATES[Cell.GRU], 4),
    Cell.LSTM: Formulas(_lstm, _lstm_back, GATES[Cell.LSTM], 4),
    Cell.ELMAN: Formulas(_elman, _elman_back, GATES[Cell.ELMAN], 1),
}


@intrinsic(prefer_literal=True)
def cell(typing: Any, kind: Any, sums: Any, h: Any, c: Any, new_c: Any, new_h: Any) -> Any:
    """New h and c (H, N); the sums (blocks H, N) become the gates."""
    formulas = CELLS[kind.literal_value]

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        with elementwise(context, b, signature.args[1:], arguments[1:]) as at:
            gates = [at(0, block) for block in range(formulas.blocks)]
            read = [Number(b, m.load(a)) for m, a in (at(1), at(2), *gates)]
            for value, (matrix, address) in zip(
                formulas.forward(*read), (*gates, at(4), at(3)), strict=False
            ):
                matrix.store(value.value, address)
        return context.get_dummy_value()

    return types.none(kind, sums, h, c, new_c, new_h), generate


@intrinsic(prefer_literal=True)
def cell_back(
    typing: Any, kind: Any, d_sums: Any, gates: Any, h: Any, c: Any, new_c: Any, dc: Any, dh: Any
) -> Any:
    """Gradients of the sums (blocks H, N); dh and dc (H, N) go back a step, but for what the sums add."""
    formulas = CELLS[kind.literal_value]

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        with elementwise(context, b, signature.args[1:], arguments[1:]) as at:
            kept = [at(1, block) for block in range(formulas.blocks)]
            sums = [at(0, block) for block in range(formulas.blocks)]
            read = [Number(b, m.load(a)) for m, a in (at(6), at(5), at(2), at(3), at(4), *kept)]
            for value, (matrix, address) in zip(
                formulas.backward(*read), (*sums, at(6), at(5)), strict=False
            ):
                matrix.store(value.value, address)
        return context.get_dummy_value()

    return types.none(kind, d_sums, gates, h, c, new_c, dc, dh), generate
