"""The short memory of a twin: its newest samples, in time order, at no cost per step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twin.errors import SpecError


class Window:
    """A rolling window over the newest L samples of N rows.

    Each sample is written twice, into two copies of a ring that lie one after the other. So the newest L
    always stand somewhere without a seam, and `view` hands them out in time order without copying or
    allocating: O(1) a push, whatever L is. The price is twice the memory.

    A view is a look at the ring: later pushes overwrite it. Copy what you keep.

    >>> window = Window(rows=1, length=3, features=1)
    >>> for value in (1.0, 2.0, 3.0, 4.0):
    ...     window.push(np.array([[value]]))
    >>> window.view()[0, :, 0].tolist(), window.count, window.full
    ([2.0, 3.0, 4.0], 4, True)
    >>> window.tail(2)[0, :, 0].tolist()
    [3.0, 4.0]
    """

    def __init__(self, rows: int, length: int, features: int, dtype: npt.DTypeLike = np.float32) -> None:
        if min(rows, length, features) < 1:
            raise SpecError(
                f"a window of {rows} rows, {length} samples, {features} features: at least 1 each"
            )
        self.length = length
        self._counter = np.zeros(1, np.int64)  # in memory, for compiled code to count on
        self._count = self._counter.data
        self._ring: npt.NDArray[Any] = np.zeros((rows, 2 * length, features), dtype)
        self._shape = (rows, features)
        self._bytes = self._ring.reshape(-1).data.cast("B")
        self._stride = features * self._ring.itemsize  # bytes of one sample of a row

    @property
    def count(self) -> int:
        """Samples pushed since the last reset, without bound."""
        return self._count[0]

    @property
    def addresses(self) -> tuple[int, int]:
        """Of the ring (N, 2 L, F) and of the count, for compiled code that pushes as `push_row` does."""
        return self._ring.ctypes.data, self._counter.ctypes.data

    @property
    def full(self) -> bool:
        """Whether L samples have been pushed since the last reset."""
        return self.count >= self.length

    def push(self, z: npt.NDArray[Any]) -> None:
        """Append one sample (N, F); the oldest goes once the window is full.

        Raises:
            SpecError: another shape. NumPy would spread it over the rows without a word.
        """
        if z.shape != self._shape:
            raise SpecError(f"a sample of shape {z.shape}: this window takes {self._shape}, (N, F)")
        place = self.count % self.length
        self._ring[:, place] = self._ring[:, place + self.length] = z
        self._count[0] += 1

    def push_row(self, z: memoryview) -> None:
        """As `push`, of a window of one row: its F values of the window's own type, as bytes; in a third of
        the time, since a slice of an array costs more than what is copied. The caller answers for their
        number."""
        place = self._count[0] % self.length
        stride, ring = self._stride, self._bytes
        first, second = place * stride, (place + self.length) * stride
        ring[first : first + stride] = ring[second : second + stride] = z
        self._count[0] += 1

    def view(self) -> npt.NDArray[Any]:
        """The samples held, (N, L', F) with L' = min(count, L): oldest first, each row contiguous."""
        return self.tail(self.length)

    def tail(self, n: int) -> npt.NDArray[Any]:
        """The newest n samples, or as many as there are: a view (N, n, F), oldest first."""
        count, length = self._count[0], self.length
        n = max(0, min(n, count, length))
        end = length + (count - 1) % length + 1  # one past the newest sample, in the second copy
        return self._ring[:, end - n : end]

    def reset(self) -> None:
        """Forget all samples."""
        self._count[0] = 0
