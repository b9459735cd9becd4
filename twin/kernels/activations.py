"""tanh and the logistic function of float32, for a number or a whole vector, in some twenty operations each.

Both rest on e^y = 2^k (1 + q): y = k ln 2 + r, |r| <= ln 2 / 2, and q = e^r - 1 from a polynomial of degree
six (minimax, error 3e-9). Keeping 1 + q apart lets tanh form e^y - 1 without cancellation.

Over all 2^32 float32 inputs the error is at most 9.8e-8 for tanh and 9.0e-8 for the logistic function, less
than one unit in the last place of 1 (1.2e-7); that of tanh is also at most 1.8e-7 of the value itself
(`python -m benchmarks activations` tries every input). NaN stays NaN, infinities reach the limits.

They are written as instructions rather than left to a compiler's vectoriser, which turns some loops into
vector code and others, a little shorter, into plain code that takes eight times as long.
"""

from __future__ import annotations

import math
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FUSED: Final = ("contract",)  # a product and a sum may become one instruction; NaN and infinity stay


class Number:
    """A number, or a vector of them, in code that is being made: arithmetic adds instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.b, self.value = builder, value

    def constant(self, number: float) -> Number:
        """A number, as often as this one has lanes."""
        kind, each = self.value.type, self._element(number)
        return Number(self.b, ir.Constant(kind, [each] * kind.count) if self._lanes else each)

    @property
    def _lanes(self) -> int:
        return getattr(self.value.type, "count", 0)

    @property
    def _element(self) -> Any:
        return getattr(self.value.type, "element", self.value.type)

    @property
    def double(self) -> bool:
        """Whether it is a float64."""
        return bool(self._element != _FLOAT)

    def _with(self, instruction: str, other: Number | float, *, swapped: bool = False) -> Number:
        operand = other if isinstance(other, Number) else self.constant(other)
        pair = (operand.value, self.value) if swapped else (self.value, operand.value)
        return Number(self.b, getattr(self.b, instruction)(*pair, flags=_FUSED))

    def __add__(self, other: Number | float) -> Number:
        return self._with("fadd", other)

    def __sub__(self, other: Number | float) -> Number:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Number:
        return self._with("fsub", other, swapped=True)

    def __mul__(self, other: Number | float) -> Number:
        return self._with("fmul", other)

    def __truediv__(self, other: Number) -> Number:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Number:
        return self._with("fdiv", other, swapped=True)

    def reciprocal(self) -> Number:
        """1 / this, which a CPU may estimate and refine: for 16 numbers a fraction of a division's time."""
        estimated = ("contract", "arcp", "ninf")  # refined once; what is infinite becomes NaN
        return Number(self.b, self.b.fdiv(self.constant(1.0).value, self.value, flags=estimated))

    def __neg__(self) -> Number:
        return Number(self.b, self.b.fneg(self.value))

    def where(self, comparison: str, limit: float, then: Number, otherwise: Number) -> Number:
        """`then` where this number compares so with the limit, `otherwise` where it does not or is NaN."""
        true = self.b.fcmp_ordered(comparison, self.value, self.constant(limit).value)
        return Number(self.b, self.b.select(true, then.value, otherwise.value))

    def at_least(self, limit: float) -> Number:
        """The greater one of this and a limit; NaN stays."""
        return self.where("<", limit, self.constant(limit), self)

    def at_most(self, limit: float) -> Number:
        """The smaller one of this and a limit; NaN stays."""
        return self.where(">", limit, self.constant(limit), self)

    def with_sign_of(self, other: Number) -> Number:
        """This number's size with the sign of another."""
        return self._call("llvm.copysign", other)

    def exp(self) -> Number:
        """e to this power, by the system's own function for each lane."""
        return self._call("llvm.exp")

    def _call(self, name: str, *others: Number) -> Number:
        kind, operands = self.value.type, [self.value, *(other.value for other in others)]
        name += f".{f'v{self._lanes}' if self._lanes else ''}{'f64' if self.double else 'f32'}"
        function = ir.FunctionType(kind, [kind] * len(operands))
        return Number(
            self.b, self.b.call(cgutils.get_or_insert_function(self.b.module, function, name), operands)
        )

    def power_of_two(self) -> Number:
        """2^k of k + `_ROUND`, whose last bits are k: moved up, they are the exponent."""
        kind = ir.VectorType(_INT, self._lanes) if self._lanes else _INT

        def each(number: int) -> Any:
            return ir.Constant(kind, [_INT(number)] * self._lanes if self._lanes else number)

        bits = self.b.shl(self.b.bitcast(self.value, kind), each(23))
        return Number(self.b, self.b.bitcast(self.b.add(bits, each(127 << 23)), self.value.type))


_ROUND: Final = 1.5 * 2**23  # a float32 of this size has no fraction: adding it rounds to an integer
_COEFFICIENTS: Final = (  # of r^6 down to r^2
    0.0013950602151455493,
    0.008368953131139278,
    0.04166620597243309,
    0.166665181517601,
    0.5,
)


def exponential(y: Number) -> tuple[Number, Number]:
    """2^k and q with e^y = 2^k (1 + q), for y between -87 and 87, where e^y is a normal number.

    float64 is for checking gradients, where speed is no matter: it leaves e^y to the system.
    """
    if y.double:
        return y.constant(1.0), y.exp() - 1.0
    shifted = y * math.log2(math.e) + _ROUND
    r = y - (shifted - _ROUND) * math.log(2.0)
    p = y.constant(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        p = p * r + coefficient
    return shifted.power_of_two(), p * (r * r) + r


def tanh_of(x: Number) -> Number:
    """The hyperbolic tangent.

    With m = e^(-2|x|) - 1 it is -m / (2 + m) near zero. Farther out, where 2 + m rounds to steps of 1.2e-7,
    it is 1 - 2 e^(-2|x|) / (2 + m), in which the quotient and so its error are small.
    """
    y = x.with_sign_of(x.constant(-1.0)).at_least(
        -20.0 if x.double else -10.0
    )  # it is 1 from 19.1 or 9.01 on
    power, q = exponential(y + y)
    m = power * q + (power - 1.0)
    quotient = m.where(">", -0.75, -m, power * q + power) / (m + 2.0)
    return m.where(">", -0.75, quotient, 1.0 - (quotient + quotient)).with_sign_of(x)


def logistic_of(x: Number) -> Number:
    """1 / (1 + e^-x)."""
    power, q = exponential(-x.at_least(-87.0).at_most(87.0))
    return 1.0 / (power * q + power + 1.0)


@intrinsic
def tanh(typing: Any, x: Any) -> Any:
    """`tanh_of` one float32, for compiled functions."""
    return types.float32(types.float32), lambda context, b, signature, a: tanh_of(Number(b, a[0])).value


@intrinsic
def logistic(typing: Any, x: Any) -> Any:
    """`logistic_of` one float32, for compiled functions."""
    return types.float32(types.float32), lambda context, b, signature, a: logistic_of(Number(b, a[0])).value
