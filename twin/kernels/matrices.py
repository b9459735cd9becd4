"""Products of small matrices, and formulas over them, for a batch: each column is one of its rows.

With the batch in the lanes, one product serves a layer, its transpose and the readout alike, whatever their
sizes: weights (M, K) stay as torch has them, and only the columns are padded, to whole vectors. All sizes are
arguments, so that one piece of machine code does for every model; the type, float32 or float64, is that of
the arrays. They lie in one piece, row by row; nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from twin.kernels.activations import Number
from twin.kernels.vectors import INDEX, LANES

_ROWS: Final = (8, 4, 2, 1)  # of sums in registers at once: a row of x that was loaded serves all of them
_WIDTHS: Final = (2, 1)  # vectors of each
_DOT_ROWS: Final = (4, 2, 1)
_DOT_OTHERS: Final = (3, 1)  # of such a list each divides the one before

Formula = Callable[..., tuple[Number, ...]]


class _Matrix:
    """Rows, columns and memory of an array argument, in code that is being made."""

    def __init__(self, context: Any, b: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, b, value)
        self.b, self.data = b, array.data
        self.rows, self.columns = cgutils.unpack_tuple(b, array.shape)
        element = context.get_value_type(kind.dtype)
        self.align = kind.dtype.bitwidth // 8
        self.lanes = 4 * LANES // self.align
        self.vector = ir.VectorType(element, self.lanes)

    def at(self, row: Any, column: Any) -> Any:
        """The address of an element."""
        return self.b.gep(self.data, [self.b.add(self.b.mul(row, self.columns), column)])

    def load(self, address: Any) -> Any:
        """The vector at an address."""
        return self.b.load(self.b.bitcast(address, self.vector.as_pointer()), align=self.align)

    def store(self, value: Any, address: Any) -> None:
        """Write a vector to an address."""
        self.b.store(value, self.b.bitcast(address, self.vector.as_pointer()), align=self.align)


@intrinsic
def add_product(typing: Any, out: Any, w: Any, x: Any) -> Any:
    """out (M, N) += w (M, K) x (K, N), with a tile of sums in registers; N in whole vectors."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        sums, weights, inputs = (
            _Matrix(context, b, *pair) for pair in zip(signature.args, arguments, strict=True)
        )
        _product(b, sums, weights, inputs, None)
        return context.get_dummy_value()

    return types.none(out, w, x), generate


@intrinsic
def set_product(typing: Any, out: Any, start: Any, w: Any, x: Any) -> Any:
    """out (M, N) = start (M,), the same for every column, + w (M, K) x (K, N)."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        kinds, (out, start, w, x) = signature.args, arguments
        first = context.make_array(kinds[1])(context, b, start).data
        pairs = (kinds[0], out), (kinds[2], w), (kinds[3], x)
        sums, weights, inputs = (_Matrix(context, b, *pair) for pair in pairs)
        _product(b, sums, weights, inputs, first)
        return context.get_dummy_value()

    return types.none(out, start, w, x), generate


@intrinsic
def add_dots(typing: Any, out: Any, a: Any, x: Any) -> Any:
    """out (M, K L) += a (M, N) x (K, N)^T, each as L partial sums, one for each lane of a vector.

    For few rows K: no matrix must be turned round, and no vector is filled up with columns that are none.
    """

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        sums, left, right = (
            _Matrix(context, b, *pair) for pair in zip(signature.args, arguments, strict=True)
        )
        for rows, j in _pieces(b, left.rows, _DOT_ROWS):
            for others, i in _pieces(b, right.rows, _DOT_OTHERS):
                _add_dots(b, sums, left, right, (rows, j), (others, i))
        return context.get_dummy_value()

    return types.none(out, a, x), generate


def _add_dots(
    b: Any, out: _Matrix, a: _Matrix, x: _Matrix, left: tuple[int, Any], right: tuple[int, Any]
) -> None:
    """The partial sums of some rows with some others, in registers."""
    rows, others = ([b.add(place, INDEX(r)) for r in range(count)] for count, place in (left, right))
    places = [[out.at(row, b.mul(other, INDEX(out.lanes))) for other in others] for row in rows]
    sums = [[_local(b, out, out.load(address)) for address in line] for line in places]
    with cgutils.for_range_slice(b, INDEX(0), a.columns, INDEX(a.lanes)) as (column, _):
        ones = [a.load(a.at(row, column)) for row in rows]
        for i, other in enumerate(others):
            vector = x.load(x.at(other, column))
            for one, line in zip(ones, sums, strict=True):
                _add_to(b, line[i], one, vector)
    for line, addresses in zip(sums, places, strict=True):
        for local, address in zip(line, addresses, strict=True):
            out.store(b.load(local), address)


@intrinsic
def transpose(typing: Any, to: Any, a: Any) -> Any:
    """to (N, M or wider) = a (M, N) the other way round; N in whole vectors."""

    def generate(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        target, source = (_Matrix(context, b, *pair) for pair in zip(signature.args, arguments, strict=True))
        with cgutils.for_range_slice(b, INDEX(0), source.columns, INDEX(source.lanes)) as (column, _):
            for rows, row in _pieces(b, source.rows, (source.lanes, 1)):
                lines = [source.load(source.at(b.add(row, INDEX(r)), column)) for r in range(rows)]
                if rows == source.lanes:
                    for i, line in enumerate(_turned(b, lines)):
                        target.store(line, target.at(b.add(column, INDEX(i)), row))
                else:
                    for i in range(source.lanes):
                        element = b.extract_element(lines[0], ir.IntType(32)(i))
                        b.store(element, target.at(b.add(column, INDEX(i)), row))
        return context.get_dummy_value()

    return types.none(to, a), generate


def _turned(b: Any, lines: list[Any]) -> list[Any]:
    """A square of vectors transposed: in each round, vectors that lie a half apart exchange halves."""
    count = len(lines)
    half = count // 2
    while half:
        turned = list(lines)
        for i in (i for i in range(count) if not i & half):
            for place, own in ((i, 0), (i + half, half)):
                lanes = [(j & ~half) + own + (count if j & half else 0) for j in range(count)]
                mask = ir.Constant(ir.VectorType(ir.IntType(32), count), [ir.IntType(32)(j) for j in lanes])
                turned[place] = b.shuffle_vector(lines[i], lines[i + half], mask)
        lines, half = turned, half // 2
    return lines


def _local(b: Any, matrix: _Matrix, value: Any) -> Any:
    """A vector that the compiler will keep in a register."""
    local = cgutils.alloca_once(b, matrix.vector)
    b.store(value, local)
    return local


def _add_to(b: Any, total: Any, one: Any, other: Any) -> None:
    """total += one * other, fused where the CPU can."""
    product = b.fmul(one, other, flags=("contract",))
    b.store(b.fadd(b.load(total), product, flags=("contract",)), total)


def _product(b: Any, out: _Matrix, w: _Matrix, x: _Matrix, start: Any | None) -> None:
    for rows, j in _pieces(b, out.rows, _ROWS):
        for width, column in _pieces(b, out.columns, _WIDTHS, out.lanes):
            _add_tile(b, out, w, x, start, j, rows, column, width)


def _pieces(b: Any, length: Any, sizes: tuple[int, ...], unit: int = 1) -> Iterator[tuple[int, Any]]:
    """Code for pieces of a length: as many of the first size as fit, then of the next, and the place."""
    begin = INDEX(0)
    for size in sizes:
        step = INDEX(size * unit)
        end = b.mul(b.sdiv(length, step), step)
        with cgutils.for_range_slice(b, begin, end, step) as (place, _):
            yield size, place
        begin = end


def _add_tile(
    b: Any, out: _Matrix, w: _Matrix, x: _Matrix, start: Any, j: Any, rows: int, column: Any, width: int
) -> None:
    """A product's part of some rows from j on, and of some vectors of columns from `column` on."""
    steps = [b.add(column, INDEX(v * x.lanes)) for v in range(width)]
    targets = [[out.at(b.add(j, INDEX(r)), step) for step in steps] for r in range(rows)]
    weights = [w.at(b.add(j, INDEX(r)), INDEX(0)) for r in range(rows)]
    sums = [[cgutils.alloca_once(b, out.vector) for _ in steps] for _ in range(rows)]
    for r, (locals_, addresses) in enumerate(zip(sums, targets, strict=True)):
        if start is not None:
            first = _splat(b, b.load(b.gep(start, [b.add(j, INDEX(r))])), out.vector)
        for local, address in zip(locals_, addresses, strict=True):
            b.store(out.load(address) if start is None else first, local)
    with cgutils.for_range(b, w.columns) as loop:
        inputs = [x.load(x.at(loop.index, step)) for step in steps]
        for weight, locals_ in zip(weights, sums, strict=True):
            one = _splat(b, b.load(b.gep(weight, [loop.index])), x.vector)
            for local, vector in zip(locals_, inputs, strict=True):
                _add_to(b, local, one, vector)
    for locals_, addresses in zip(sums, targets, strict=True):
        for local, address in zip(locals_, addresses, strict=True):
            out.store(b.load(local), address)


def _splat(b: Any, value: Any, vector: Any) -> Any:
    """A vector of one number."""
    one = b.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
    none = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return b.shuffle_vector(one, one, none)


@contextmanager
def elementwise(context: Any, b: Any, kinds: Any, values: Any) -> Iterator[Callable[..., Any]]:
    """Code for all elements of matrices, a vector at a time, as many as the last of them has.

    Yields `at(matrix, block)`, the vector's address in a block of a matrix, each of the last one's size.
    """
    matrices = [_Matrix(context, b, *pair) for pair in zip(kinds, values, strict=True)]
    last = matrices[-1]
    length = b.mul(last.rows, last.columns)
    with cgutils.for_range_slice(b, INDEX(0), length, INDEX(last.lanes)) as (i, _):

        def at(matrix: int, block: int = 0) -> tuple[_Matrix, Any]:
            place = b.add(b.mul(length, INDEX(block)), i)
            return matrices[matrix], b.gep(matrices[matrix].data, [place])

        yield at
