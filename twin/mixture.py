"""Several models that answer as one: each steps with every sample, and their answers are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from twin.backends.persistence import Persistence
from twin.errors import SpecError
from twin.families import PERSISTENCE
from twin.horizons import Foresight, beyond
from twin.kernels.mixture import CALL, CALL_SIZE, LASTING_SEC, MAX_MEMBERS, SETTLE_SAMPLES, mixer, places
from twin.messages import Members, Spec
from twin.predictor import Predictor, check_shape

Array = npt.NDArray[Any]


class Blend:
    """Several predictors side by side, each in its own state; their answers are averaged by weights (M, P).

    A member whose answers are not finite, or leave the `limits` (2, P), has no say.
    """

    def __init__(self, members: Mapping[str, Predictor], weights: Array, limits: Array | None = None) -> None:
        self.members = dict(members)
        self.weights = weights
        self.limits = limits
        for first in list(self.members.values())[:1]:
            self.rows, self.sample, self.y = first.rows, first.sample, first.y.copy()

    @property
    def quick(self) -> bool:
        """Whether a free run of some samples fits between two samples of a stream."""
        return all(each.quick for each in self.members.values())

    @property
    def number(self) -> int:
        """The number of the checkpoint of the member with the largest weight; 0 where that has none."""
        return list(self.members.values())[int(self.weights.mean(axis=1).argmax())].number

    @property
    def adapting(self) -> bool:
        """Whether a step takes its sample for a measurement, and members may learn from it."""
        return any(each.adapting for each in self.members.values())

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        for each in self.members.values():
            each.adapting = adapting

    @property
    def parameters(self) -> Mapping[str, tuple[float, float]]:
        """Of the first member that has any. Were they those of the one that leads, a change of the lead would
        look like a change of the plant."""
        return next((found for each in self.members.values() if (found := each.parameters)), {})

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """Of all members, one behind the other, (N, S), as a copy."""
        return np.concatenate([each.state for each in self.members.values()], axis=1)

    @state.setter
    def state(self, state: npt.NDArray[np.float32]) -> None:
        sizes = [each.state.shape[1] for each in self.members.values()]
        check_shape("state", state, (self.rows, sum(sizes)))
        for each, part in zip(
            self.members.values(), np.split(state, np.cumsum(sizes)[:-1], axis=1), strict=True
        ):
            each.state = part

    def share(self, sample: npt.NDArray[np.float32]) -> None:
        """From now on read samples in this memory (N, F), which others may read as well."""
        self.sample = sample
        for each in self.members.values():
            each.share(sample)

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples; and, unless `learned` is False, what they taught."""
        for each in self.members.values():
            each.reset(learned=learned)

    def warm(self, z: Array) -> None:
        """Follow samples z (N, T, F) without answering."""
        for each in self.members.values():
            each.warm(z)

    def step(self, z: Array) -> npt.NDArray[np.float32]:
        """Follow one sample z (N, F), and answer the y (N, P) expected of the next one."""
        self.y[...] = self._mean([each.step(z)[:, None] for each in self.members.values()])[:, 0]
        return self.y

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Simulate from z (1, F) or (N, F) with inputs u (N, T, U), each member fed with its own answers: y
        (N, T, P)."""
        return self._mean([each.free_run(z, u) for each in self.members.values()])

    def _mean(self, answers: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Of answers (N, T, P)."""
        runs = np.stack(answers).astype(np.float64)
        return np.asarray(mean_of(runs, self.weights[:, None, None], self.limits), np.float32)

    def fork(self, rows: int) -> Blend:
        """Another one for N rows, each in the state of the first row of this one."""
        forked = {name: each.fork(rows) for name, each in self.members.items()}
        return Blend(forked, self.weights, self.limits)

    def take_over(self, other: Blend) -> None:
        """Go on from where the first row of another one is, with its members and weights."""
        others, self.weights, self.limits = other.tried()
        self.members = taken_over(self.members, others, self.rows)

    def tried(self) -> tuple[dict[str, Predictor], Array, Array | None]:
        """The members that have a say in a free run, their weights, and the limits."""
        return self.members, self.weights, self.limits

    def __reduce__(self) -> NoReturn:
        raise TypeError("predictors work on memory of their own and are not copied or pickled; fork them")


def mean_of(runs: Array, weights: Array, limits: Array | None) -> Array:
    """The mean of runs (M, ..., P) by weights of such a shape. Those that are not finite have no say, nor
    those that leave the limits (2, P), unless all do."""
    say = np.where(np.isfinite(runs), weights, 0.0)
    if limits is not None and say[~(gone := beyond(runs, limits))].any():
        say[gone] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((say * np.nan_to_num(runs)).sum(axis=0) / say.sum(axis=0))


def taken_over(
    mine: Mapping[str, Predictor], others: Mapping[str, Predictor], rows: int
) -> dict[str, Predictor]:
    """Copies of others in their present state, for N rows; those of `mine`, from before, serve again."""
    found = {}
    for name, each in others.items():
        own = mine.get(name)
        if own is None or own.number != each.number:
            own = each.fork(rows)
        else:
            own.take_over(each)
        found[name] = own
    return found


class Mixture(Blend):
    """Predictors of one row that follow a stream, with weights (M, P) that are learned from it
    (`twin.kernels.mixture`). Those are of answers one step ahead; in free runs there are others.

    The `members` that it begins with are believed alike, those of checkpoints if there are any.

    Raises:
        SpecError: more than `MAX_MEMBERS`.
    """

    def __init__(self, spec: Spec, members: Mapping[str, Predictor]) -> None:
        outputs, at = len(spec.outputs), places(len(spec.outputs))
        self._memory = np.zeros(at.size)
        self._weight, self._square, self._errors, self._lasting, self._expected = (
            self._memory[place : place + MAX_MEMBERS * outputs].reshape(MAX_MEMBERS, outputs)
            for place in (at.weight, at.square, at.error, at.lasting, at.expected)
        )
        self._seen = self._memory[at.seen : at.size]
        super().__init__({}, self._weight)
        self.rows, self.y = 1, np.zeros((1, outputs), np.float32)
        self.sample = np.zeros((1, len(spec.features)), np.float32)
        self._mix = mixer(len(spec.inputs), outputs)
        self._call = np.zeros(CALL_SIZE, np.int64)
        self._call_at = self._call.ctypes.data
        for place, array in ((CALL.memory, self._memory), (CALL.z, self.sample), (CALL.y, self.y)):
            self._call[place] = array.ctypes.data
        self._call[CALL.learning] = True
        self._call[CALL.lasting] = max(round(LASTING_SEC / spec.dt), 1)
        self.sound = True
        """Whether all members have answered by finite numbers; False until those that have not are left."""
        self.foresight: Foresight | None = None
        """What members are worth in a free run, once that is known."""
        self.tell(np.zeros(1 + MAX_MEMBERS))
        for name, each in members.items():
            self.put(name, each)

    def tell(self, told: npt.NDArray[np.float64]) -> None:
        """From now on leave the number of the member that leads, an integer, and the members' mean weights in
        this memory (1 + `MAX_MEMBERS`,)."""
        self._told = told
        self._call[CALL.told] = told.ctypes.data

    def put(self, name: str, predictor: Predictor) -> None:
        """Take a member in, or a new version of it, which keeps its weight.

        Raises:
            SpecError: there are `MAX_MEMBERS` already.
        """
        if name not in self.members:
            i = len(self.members)
            if i == MAX_MEMBERS:
                raise SpecError(f"a bank has {MAX_MEMBERS} members at most; leave some out of --model")
            for table in (self._weight, self._square, self._errors, self._lasting, self._seen):
                table[i] = 0.0
            self._expected[i] = np.nan
        else:  # what lasts are the errors of the version before: this one is taken for as good as any
            i, settled = list(self.members).index(name), self._seen >= SETTLE_SAMPLES
            if settled[i]:
                self._lasting[i] = self._lasting[settled].min(axis=0)
        self.members[name] = predictor
        predictor.share(self.sample)
        self._lay_out()
        if not self._seen.any():  # nothing is known of any: a checkpoint is more than none
            first = np.array([each.number > 0 for each in self.members.values()])
            first |= not first.any()
            self.weights[:] = (first / first.sum())[:, None]

    def drop(self, name: str) -> None:
        """Leave a member out."""
        i, count = list(self.members).index(name), len(self.members)
        for table in (self._weight, self._square, self._errors, self._lasting, self._expected, self._seen):
            table[i : count - 1] = table[i + 1 : count].copy()
        del self.members[name]
        self._lay_out()
        for weights in self.weights.T:  # of each output: views
            total = weights.sum()
            weights[:] = weights / total if total > 0 else 1 / len(weights)

    def _lay_out(self) -> None:
        """Write down where the members answer, and their numbers."""
        self.sound = True
        self.weights = self._weight[: len(self.members)]
        self._steps = [each.step for each in self.members.values() if not isinstance(each, Persistence)]
        self._call[CALL.size] = len(self.members)
        self._call[CALL.persistent] = PERSISTENCE in self.members
        for i, each in enumerate(self.members.values()):
            place = CALL.members + 2 * i
            self._call[place : place + 2] = each.y.ctypes.data, each.number

    @property
    def number(self) -> int:
        """The number of the checkpoint of the member that leads; 0 where that has none."""
        return int(self._told[:1].view(np.int64)[0])

    @property
    def adapting(self) -> bool:
        """Whether a step takes its sample for a measurement, by which the members are judged."""
        return bool(self._call[CALL.learning])

    @adapting.setter
    def adapting(self, adapting: bool) -> None:
        self._call[CALL.learning] = adapting

    @property
    def mean_weights(self) -> dict[str, float]:
        """Of each member, over the outputs."""
        return dict(zip(self.members, self._told[1:].tolist(), strict=False))

    @property
    def errors(self) -> dict[str, list[float]]:
        """Of each member, the RMSE of each output (P) over its newest samples, in the output's unit."""
        squares = self._errors[: len(self.members)]
        return dict(zip(self.members, np.sqrt(squares).tolist(), strict=True))

    @property
    def unsound(self) -> list[str]:
        """The members whose last answer was not finite."""
        return [name for name, each in self.members.items() if not np.isfinite(each.y).all()]

    def step(self, z: Array) -> npt.NDArray[np.float32]:
        """Follow one sample z (1, F), and answer the y (1, P) expected of the next one."""
        if z is not self.sample:
            check_shape("z", z, self.sample.shape)
            self.sample[...] = z
        for step in self._steps:
            step(self.sample)
        if self._mix(self._call_at):
            self.sound = False
        return self.y

    def reset(self, *, learned: bool = True) -> None:
        """Forget all samples; and, unless `learned` is False, what they taught."""
        super().reset(learned=learned)
        self._expected[:] = np.nan
        if learned:
            for table in (self._seen, self._square, self._errors, self._lasting):
                table[:] = 0.0
            self.weights[:] = 1 / len(self.members)

    def tried(self) -> tuple[dict[str, Predictor], Array, Array | None]:
        """The members that have a say in a free run, their weights, and the limits: by `foresight`, or,
        before there is any, those of checkpoints alike."""
        weights = self.foresight.weights if self.foresight is not None else {}
        seen = {name: each for name, each in self.members.items() if name in weights and weights[name].any()}
        if seen and self.foresight is not None:
            return seen, np.stack([weights[name] for name in seen]), self.foresight.limits
        known = {name: each for name, each in self.members.items() if each.number} or dict(self.members)
        return known, np.full((len(known), self.y.shape[1]), 1 / len(known)), None

    def free_run(self, z: Array, u: Array) -> npt.NDArray[np.float32]:
        """Simulate from z (1, F) with inputs u (1, T, U): y (1, T, P), by the members that `tried` names."""
        return Blend(*self.tried()).free_run(z, u)

    def fork(self, rows: int) -> Blend:
        """What `tried` names, for N rows, each in the state of this one; its weights stay as they are now."""
        members, weights, limits = self.tried()
        return Blend({name: each.fork(rows) for name, each in members.items()}, weights, limits)


def members_message(mixture: Mixture, spec: Spec, t: float) -> Members:
    """What a mixture's members do, as it is published."""
    return Members(
        t=t,
        models={name: each.number for name, each in mixture.members.items()},
        weights=mixture.mean_weights,
        errors={
            name: dict(zip(spec.outputs, errors, strict=True)) for name, errors in mixture.errors.items()
        },
    )
