"""What a recurrent model has to beat: a least-squares ARX model and a subspace model, by NumPy.

Both are fitted to samples z (T, F), inputs then outputs, and follow as the twin's models do: `ahead` answers
the y expected of the next sample, `free_run` goes on without measurements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are

from twin.errors import TwinError

Array = NDArray[np.float64]


class ARX:
    """y(k+1) = Σ_j Θ_j z(k-j) + c over `taps` samples, by least squares (Ljung, 2nd ed., 4.2 and 7.3)."""

    def __init__(self, z: Array, inputs: int, taps: int = 8) -> None:
        self.inputs, self.taps = inputs, taps
        past = self._regressors(z)[:-1]
        self.theta = np.linalg.lstsq(past, z[taps:, inputs:], rcond=None)[0]

    def _regressors(self, z: Array) -> Array:
        """(T - taps + 1, taps F + 1): the newest sample first."""
        windows = np.lib.stride_tricks.sliding_window_view(z, self.taps, axis=0)  # (T', F, taps)
        flat = windows[:, :, ::-1].transpose(0, 2, 1).reshape(len(windows), -1)
        return np.column_stack([flat, np.ones(len(flat))])

    def ahead(self, z: Array) -> Array:
        """What was expected of each sample of z (T, F): (T, P), NaN for the first."""
        found = np.full((len(z), z.shape[1] - self.inputs), np.nan)
        found[self.taps :] = self._regressors(z)[:-1] @ self.theta
        return found

    def free_run(self, warm: Array, u: Array) -> Array:
        """Outputs (N, T, P) at the instants of inputs u (N, T, U), after samples warm (N, L, F)."""
        held = warm[:, -self.taps :][:, ::-1].reshape(len(warm), -1)
        run = []
        for k in range(u.shape[1]):
            y = np.column_stack([held, np.ones(len(held))]) @ self.theta
            run.append(y)
            held = np.concatenate([u[:, k], y, held[:, : -warm.shape[2]]], axis=1)
        return np.stack(run, axis=1)


class Subspace:
    """x(k+1) = A x + B u + K e, y = C x + e, from projections of block Hankel matrices.

    N4SID: states are the right singular vectors of the oblique projection of future outputs along future
    inputs on the past, the matrices follow by least squares between a state sequence and the next one, and K
    from the covariance of its residuals (P. Van Overschee, B. De Moor, "Subspace Identification for Linear
    Systems", 1996, 4.4.1, figure 4.6). D is zero, since y is sampled before u acts. Nine tenths of z are
    fitted; of the orders 1 to 8 that are stable, as a motor is, the one with the least error one step ahead
    on the last tenth is kept.

    Raises:
        TwinError: there is none.
    """

    def __init__(self, z: Array, inputs: int, rows: int = 12) -> None:
        self.inputs, self.rows = inputs, rows
        seen = len(z) * 9 // 10
        self.mean = z[:seen].mean(axis=0)
        projections = self._project((z[:seen] - self.mean).T)
        found: dict[float, int] = {}
        for self.order in range(1, 9):
            if self._fit(*projections):
                error = (z[seen:, inputs:] - self.ahead(z[seen:]))[rows:]
                found[float(np.log(np.mean(error**2, axis=0)).sum())] = self.order
        if not found:
            raise TwinError("subspace: no order from 1 to 8 is stable")
        self.order = found[min(found)]
        self._fit(*projections)

    def _project(self, z: Array) -> tuple[Array, ...]:
        """θ of the future outputs on the past w for two instants that follow each other, and both pasts."""
        m, i = self.inputs, self.rows
        columns = z.shape[1] - 2 * i + 1
        u, y = (np.concatenate([part[:, k : k + columns] for k in range(2 * i)]) for part in (z[:m], z[m:]))
        p = len(y) // (2 * i)

        def projected(past: int) -> tuple[Array, Array]:
            w = np.concatenate([u[: m * past], y[: p * past]])
            regressors = np.concatenate([w, u[m * past :]])
            right = regressors @ y[p * past :].T
            return np.linalg.lstsq(regressors @ regressors.T, right, rcond=None)[0].T[:, : len(w)], w

        return *projected(i), *projected(i + 1), u[m * i : m * (i + 1)], y[p * i : p * (i + 1)]

    def _fit(
        self, theta: Array, past: Array, theta_next: Array, past_next: Array, u: Array, y: Array
    ) -> bool:
        """The matrices of `order`; whether they are stable."""
        n, p = self.order, len(y)
        # the left singular vectors of θ W come from the small matrix θ (W Wᵀ) θᵀ
        values, vectors = np.linalg.eigh(theta @ (past @ past.T) @ theta.T)
        gamma = vectors[:, ::-1][:, :n] * np.maximum(values[::-1][:n], 0.0) ** 0.25
        x = np.linalg.pinv(gamma) @ theta @ past
        x_next = np.linalg.pinv(gamma[:-p]) @ theta_next @ past_next
        xu = np.concatenate([x, u])
        ab = np.linalg.lstsq(xu @ xu.T, xu @ x_next.T, rcond=None)[0].T
        self.c = np.linalg.lstsq(x @ x.T, x @ y.T, rcond=None)[0].T
        self.a, self.b = ab[:, :n], ab[:, n:]
        residual = np.concatenate([x_next - ab @ xu, y - self.c @ x])
        cov = residual @ residual.T / residual.shape[1]
        q, r, s = cov[:n, :n], cov[n:, n:], cov[:n, n:]
        try:
            big = solve_discrete_are(self.a.T, self.c.T, q, r, s=s)
        except np.linalg.LinAlgError:
            return False
        self.k: Array = (self.a @ big @ self.c.T + s) @ np.linalg.inv(self.c @ big @ self.c.T + r)
        return all(np.abs(np.linalg.eigvals(each)).max() < 1.0 for each in (self.a, self.a - self.k @ self.c))

    def _follow(self, z: Array) -> tuple[Array, Array]:
        """Expected outputs (N, T, P) of samples z (N, T, F), and the states (N, n) after them."""
        z = z - self.mean
        x, found = np.zeros((len(z), self.order)), np.empty((*z.shape[:2], len(self.c)))
        for k in range(z.shape[1]):
            found[:, k] = x @ self.c.T
            error = z[:, k, self.inputs :] - found[:, k]
            x = x @ self.a.T + z[:, k, : self.inputs] @ self.b.T + error @ self.k.T
        return found + self.mean[self.inputs :], x

    def ahead(self, z: Array) -> Array:
        """As ARX's."""
        found: Array = self._follow(z[None])[0][0]
        return found

    def free_run(self, warm: Array, u: Array) -> Array:
        """As ARX's."""
        x, run = self._follow(warm)[1], []
        for k in range(u.shape[1]):
            run.append(x @ self.c.T + self.mean[self.inputs :])
            x = x @ self.a.T + (u[:, k] - self.mean[: self.inputs]) @ self.b.T
        return np.stack(run, axis=1)
