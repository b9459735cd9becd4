"""The inner loop of a step: sums += W^T x, with the sums in registers.

A compiler that is shown this as two plain loops keeps the sums in memory and loads and stores them for each
input, or turns the loops around and adds across a vector; either costs several times as much. So here the
instructions are written out, in LLVM's portable vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES: Final[Mapping[str, bool]] = binding.get_host_cpu_features()
LANES: Final = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4
"""float32 numbers in a vector of this CPU."""
_REGISTERS: Final = 24 if LANES == 16 else 12  # for sums, beside those for weights and inputs
_LATENCY: Final = 4  # cycles until a sum can be added to again: so many should be under way

INDEX: Final = ir.IntType(64)
_LANE: Final = ir.IntType(32)
_VECTOR: Final = ir.VectorType(ir.FloatType(), LANES)
_FIRST: Final = ir.Constant(ir.VectorType(_LANE, LANES), None)
POINTER: Final = types.CPointer(types.float32)
_DOUBLES: Final = types.CPointer(types.float64)


def padded(n: int) -> int:
    """The numbers in as many whole vectors as hold n."""
    return -(-n // LANES) * LANES


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """The float32 numbers at an address."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.inttoptr(arguments[0], context.get_value_type(POINTER))

    return POINTER(types.int64), generate


@intrinsic
def doubles(typing: Any, address: Any) -> Any:
    """The float64 numbers at an address."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.inttoptr(arguments[0], context.get_value_type(_DOUBLES))

    return _DOUBLES(types.int64), generate


@intrinsic
def integers(typing: Any, address: Any) -> Any:
    """The 64-bit integers at an address."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def integer(typing: Any, address: Any, i: Any) -> Any:
    """The i-th of the 64-bit integers at an address."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.load(b.gep(b.inttoptr(arguments[0], INDEX.as_pointer()), [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def load(typing: Any, p: Any, i: Any) -> Any:
    """p[i]. An array would ask at each access whether i counts from the end, and be no vector code."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        return b.load(b.gep(arguments[0], [arguments[1]]))

    return types.float32(POINTER, types.int64), generate


@intrinsic
def store(typing: Any, p: Any, i: Any, value: Any) -> Any:
    """p[i] = value."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        b.store(arguments[2], b.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.none(POINTER, types.int64, types.float32), generate


@intrinsic
def copy(typing: Any, p: Any, to: Any, start: Any, n: Any) -> Any:
    """p[to + i] = p[start + i] for i < n, in whole vectors."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        p, to, start, n = arguments
        with cgutils.for_range_slice(b, INDEX(0), n, INDEX(LANES)) as (i, _):
            source, target = (vector_at(b, p, b.add(place, i)) for place in (start, to))
            b.store(b.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.none(POINTER, types.int64, types.int64, types.int64), generate


@intrinsic
def blend(typing: Any, p: Any, to: Any, keep: Any, x: Any, a: Any, y: Any, b: Any, n: Any) -> Any:
    """p[to + i] = keep p[to + i] + a p[x + i] + b p[y + i] for i < n, in whole vectors."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        p, to, keep, x, a, y, c, n = arguments
        factors = [_splat(b, factor) for factor in (keep, a, c)]
        with cgutils.for_range_slice(b, INDEX(0), n, INDEX(LANES)) as (i, _):
            total = _local(b, None)
            target = vector_at(b, p, b.add(to, i))
            for factor, place in zip(factors, (to, x, y), strict=True):
                _add_product(b, total, factor, b.load(vector_at(b, p, b.add(place, i)), align=4))
            b.store(b.load(total), target, align=4)
        return context.get_dummy_value()

    index, real = types.int64, types.float32
    return types.none(POINTER, index, real, index, real, index, real, index), generate


@intrinsic
def dot(typing: Any, p: Any, i: Any, q: Any, j: Any, n: Any) -> Any:
    """The sum of p[i + k] q[j + k] over k < n, in whole vectors."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        p, i, q, j, n = arguments
        total = _local(b, None)
        with cgutils.for_range_slice(b, INDEX(0), n, INDEX(LANES)) as (k, _):
            places = vector_at(b, p, b.add(i, k)), vector_at(b, q, b.add(j, k))
            one, other = (b.load(place, align=4) for place in places)
            _add_product(b, total, one, other)
        shape = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _VECTOR])
        across = cgutils.get_or_insert_function(b.module, shape, f"llvm.vector.reduce.fadd.v{LANES}f32")
        return b.call(across, [ir.FloatType()(-0.0), b.load(total)], fastmath=("reassoc",))

    index = types.int64
    return types.float32(POINTER, index, POINTER, index, index), generate


@intrinsic(prefer_literal=True)
def accumulate(
    typing: Any,
    p: Any,
    start: Any,
    start_pitch: Any,
    sums: Any,
    sums_pitch: Any,
    w: Any,
    q: Any,
    x: Any,
    x_pitch: Any,
    rows: Any,
    k: Any,
    m: Any,
) -> Any:
    """p[sums + j] = p[start + j] + the sum over i < k of p[w + i m + j] q[x + i], for each j < m, and for
    each of some rows: sums, start and x of the next one lie a pitch farther on.

    Sums and weights are in block p, inputs in block q; rows, k and m are constants, m in whole vectors. The
    m columns are taken in as many turns as the registers ask for. Where there are so few sums that each
    would wait for its own last addition, several partial ones take turns.
    """
    tile = _Tile(rows.literal_value, k.literal_value, m.literal_value // LANES)

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        p, start, start_pitch, sums, sums_pitch, w, q, x, x_pitch = arguments[:9]
        if not tile.vectors:  # a model without units
            return context.get_dummy_value()
        befores = tile.addresses(b, p, start, start_pitch)
        afters = tile.addresses(b, p, sums, sums_pitch)
        tile.generate(b, befores, afters, b.gep(p, [w]), tile.addresses(b, q, x, x_pitch))
        return context.get_dummy_value()

    index = types.int64
    places = (index, index, index, index, index)
    return types.none(POINTER, *places, POINTER, index, index, rows, k, m), generate


class _Tile:
    """The instructions of one `accumulate`."""

    def __init__(self, rows: int, inputs: int, vectors: int) -> None:
        self.rows, self.inputs, self.vectors = rows, inputs, vectors
        turns = max(-(-vectors * rows // _REGISTERS), 1)
        self.width = -(-vectors // turns)  # vectors in a turn, as even as possible
        self.chains = min(-(-_LATENCY // max(self.width * rows, 1)), inputs)  # partial sums of each

    def addresses(self, b: Any, p: Any, place: Any, pitch: Any) -> list[Any]:
        """Of a place in each row."""
        return [b.gep(p, [b.add(place, b.mul(pitch, INDEX(r)))]) for r in range(self.rows)]

    def generate(self, b: Any, befores: list[Any], afters: list[Any], w: Any, inputs: list[Any]) -> None:
        """Sums from and to addresses for each row, of the columns at w times the inputs."""
        for first in range(0, self.vectors, self.width):
            columns = range(first, min(first + self.width, self.vectors))
            partial = [
                [[_local(b, None if chain else _vector(b, row, v)) for v in columns] for row in befores]
                for chain in range(self.chains)
            ]
            weights = b.gep(w, [INDEX(first * LANES)])
            rounds, left = divmod(self.inputs, self.chains)
            with cgutils.for_range(b, INDEX(rounds)) as loop:
                for chain in range(self.chains):
                    i = b.add(b.mul(loop.index, INDEX(self.chains)), INDEX(chain))
                    self._add(b, weights, inputs, i, partial[chain])
            for i in range(self.inputs - left, self.inputs):
                self._add(b, weights, inputs, INDEX(i), partial[0])
            for r, row in enumerate(afters):
                for i, v in enumerate(columns):
                    total = b.load(partial[0][r][i])
                    for others in partial[1:]:
                        total = b.fadd(total, b.load(others[r][i]))
                    b.store(total, _vector(b, row, v), align=4)

    def _add(self, b: Any, weights: Any, inputs: list[Any], i: Any, sums: list[list[Any]]) -> None:
        """Input i of every row, times its column of weights."""
        splats = [_splat(b, b.load(b.gep(row, [i]))) for row in inputs]
        column = b.gep(weights, [b.mul(i, INDEX(self.vectors * LANES))])
        for v in range(len(sums[0])):
            weight = b.load(_vector(b, column, v), align=4)
            for splat, row in zip(splats, sums, strict=True):
                _add_product(b, row[v], splat, weight)


def _add_product(b: Any, total: Any, one: Any, other: Any) -> None:
    """total += one * other, fused where the CPU can."""
    product = b.fmul(one, other, flags=("contract",))
    b.store(b.fadd(b.load(total), product, flags=("contract",)), total)


def _vector(b: Any, address: Any, v: int) -> Any:
    """The address of the v-th vector from an address on."""
    return vector_at(b, address, INDEX(v * LANES))


def vector_at(b: Any, p: Any, place: Any) -> Any:
    """The address of the vector that begins at a place."""
    return b.bitcast(b.gep(p, [place]), _VECTOR.as_pointer())


def _local(b: Any, start: Any | None) -> Any:
    """A vector that the compiler will keep in a register, with its first value from an address, or zero."""
    local = cgutils.alloca_once(b, _VECTOR)
    b.store(_VECTOR(None) if start is None else b.load(start, align=4), local)
    return local


def _splat(b: Any, value: Any) -> Any:
    """A vector of one number."""
    one = b.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _LANE(0))
    return b.shuffle_vector(one, one, _FIRST)
