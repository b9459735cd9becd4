"""The filters of a motor at work, by the reference: `Motors` in every respect but how a sample is followed.

It is what the compiled kernel is held to, sample by sample, and what the backend `eager` runs: a sample takes
a hundred times as long, and any step of it can be watched.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from twin.kernels.kalman_reference import STATES, Filter, adapt, begin, follow
from twin.kernels.physics import ANSWER, EXPECTED, KNOWN, ROW, Array, Motors, Turn


class ReferenceMotors(Motors):
    """N filters of one checkpoint's motor, in NumPy."""

    def follow(self, z: Array, adapting: bool = False) -> npt.NDArray[np.float32]:
        """Follow samples z (N, T, 3): what `ANSWER` says, (N, T, 5)."""
        z = np.asarray(z, np.float32)
        answers = np.empty((*z.shape[:2], ANSWER), np.float32)
        for row in range(self.rows):
            self._follow_row(row, z[row].astype(np.float64), answers[row], adapting)
        return answers

    def turns(self, sample: npt.NDArray[np.float32]) -> tuple[Turn, Turn]:
        """What follows the sample (N, 3) in this memory and fills in `answer`: as it is, and adapting."""

        def turn(adapting: bool) -> None:
            self.answer[...] = self.follow(sample[:, None], adapting)

        return partial(turn, False), partial(turn, True)

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Fed with its own answers, from samples z (N, 3) with inputs u (N, T, 1): y (N, T, 2); then all is
        as it was."""
        kept, run = self._memory.copy(), np.empty((*u.shape[:2], 2), np.float32)
        for k in range(u.shape[1]):
            run[:, k] = self.follow(z[:, None])[:, 0, EXPECTED:]
            z = np.concatenate((u[:, k], run[:, k]), axis=1)
        self._memory[...] = kept
        return run

    def filter_of(self, row: int) -> Filter:
        """A row's filter, whose arrays are views of its memory."""
        memory, known = self._memory[row], self._known
        return Filter(
            p0=known[KNOWN.p0 : KNOWN.noise],
            noise=known[KNOWN.noise : KNOWN.scale],
            p=self._p[row],
            x=self._x[row],
            cov=self._cov[row],
            rejected=memory[ROW.rejected : ROW.cusum],
            cusum=memory[ROW.cusum : ROW.misfit],
            misfit=memory[ROW.misfit : ROW.pause],
            pause=memory[ROW.pause : ROW.direction],
            direction=memory[ROW.direction],
            jumps=memory[ROW.jumps],
        )

    def _follow_row(self, row: int, z: Array, answers: npt.NDArray[np.float32], adapting: bool) -> None:
        memory, (dt, current, speed) = self._memory[row], self._known[KNOWN.dt : KNOWN.new]
        k, order = self.filter_of(row), [int(current), int(speed)]
        outputs = np.argsort(order)  # what the filter calls current and speed, as the plant orders them
        for t, sample in enumerate(z):
            v, y = sample[0], sample[1:][order]
            if not memory[ROW.begun]:
                memory[ROW.begun] = 1.0
                begin(k, y)
            answers[t, 0], answers[t, 1:EXPECTED] = v, (y - k.x[:2])[outputs]
            if adapting:
                memory[ROW.joint] = 1.0
                adapt(k, dt, v, y)
            else:
                if memory[ROW.joint]:  # what it has learned about the parameters stays, apart from the state
                    memory[ROW.joint] = 0.0
                    k.cov[:STATES, STATES:] = k.cov[STATES:, :STATES] = 0.0
                follow(k, dt, v, y)
                self._round(row)
            answers[t, EXPECTED:] = k.x[:2][outputs]
        memory[ROW.direction], memory[ROW.jumps] = k.direction, k.jumps

    def _round(self, row: int) -> None:
        """What a state holds becomes what its float32 say, so that one put back repeats what followed."""
        scale, x, cov = self._scale(1), self._x[row], self._cov[row]
        units, cusum = np.outer(scale, scale), self._memory[row, ROW.cusum : ROW.misfit]
        x[:STATES] = np.float32(x[:STATES] / scale) * scale
        cov[:STATES, :STATES] = np.float32(cov[:STATES, :STATES] / units) * units
        cusum[:] = np.float32(cusum)
