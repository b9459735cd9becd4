"""What several models expect, mixed by how well each did of late: one compiled call a sample.

For each output there is a weight for each member, a posterior probability that it is the best one now. With
the error e of what a member expected of the sample that has come, e₀ the smallest error of all members, and v
the smallest of their mean squared errors over the last `ERROR_SAMPLES`,

    w ← w exp(-½ e² / (v + e₀²)),    w ← w / Σ w,    w ← (1 - α) w + α / M.

The first step is the Gaussian likelihood of errors as large as the best member's usually are. To that scale
e₀ is added: an error that all of them share, as when a load jumps or a plant begins anew, must not decide
between them. (With a variance of its own for each member, one with large errors behind it was believed too
late.) The last step is the fixed share of Herbster and Warmuth ("Tracking the best expert", Machine Learning
32, 1998): a member is never lost for good, and one that has become the best leads after some samples. It is
the interacting multiple model (Blom and Bar-Shalom, IEEE Trans. Automat. Contr. 33(8), 1988) with equal
probabilities of transition and without mixing the states, which these members, of different kinds, could not
exchange. Persistence must be better than another by `PERSISTENCE_NATS` a sample: while a motor stands nothing
is, and when it then starts there is no better choice than any other.

A member may be as good as any while nothing happens, and far off whenever something does: equations with a
wrong inductance are, at each step of the voltage, and in between they lead. So the answer is the mean of the
members' by their say, the weight times the power -`LASTING_POWER` of the mean squared error over the last
seconds (relative to the smallest one; one sample counts for so many times the best one's at most). Below
`MIN_SAY` they have none, so that what is hardly believed does no harm, however far off it is, and neither has
one that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit, types

from twin.kernels.cache import kept
from twin.kernels.vectors import doubles, integer, integers, pointer

MAX_MEMBERS: Final = 8
"""Members that a mixture has room for."""
SHARE: Final = 5e-3
"""α: the probability that another member becomes the best one with a sample."""
ERROR_SAMPLES: Final = 100.0
"""Samples over which a member's mean squared error is taken."""
MAX_SQUARES: Final = 25.0
"""Mean squared errors for which one sample counts at most: what is far beyond the usual is soon forgotten."""
LASTING_SEC: Final = 3.0
"""Time over which the lasting mean squared error is taken."""
LASTING_POWER: Final = 3
"""By how much a small lasting error is preferred."""
MAX_LASTING_SQUARES: Final = 1000.0
"""Squared errors of the best member for which one sample counts at most in the lasting error."""
NEWCOMER_SQUARES: Final = 4.0
"""Lasting error with which a newcomer begins, over the best one's, squared: nothing may have happened yet."""
NEWCOMER_SHARE: Final = 1 / 6
"""Part of `LASTING_SEC` for which that counts."""
TOLD_SAMPLES: Final = 2_000.0
"""Samples over which the errors are taken that are published."""
SETTLE_SAMPLES: Final = 12.0
"""Samples for which a new member's errors are taken in before it is weighed: then it has the say of each."""
MIN_SAY: Final = 0.01
"""Weight, before a sample's answer is mixed, from which on a member has a say in it."""
MAX_NATS: Final = 20.0
"""Logarithm of the likelihood of the best member over another's that one sample can bring at most."""
PERSISTENCE_NATS: Final = 0.5
"""What is taken from the logarithm of persistence's likelihood with each sample."""
NEGLIGIBLE: Final = 1e-6
"""Share of persistence's usual error, squared, below which no error is told from zero."""
USUAL_SAMPLES: Final = 20_000.0
"""Samples over which that usual error is taken."""

_INLINE: Final[dict[str, Any]] = {"fastmath": {"contract"}, "forceinline": True}


class Places(NamedTuple):
    """Places in the memory, in numbers of float64, with room for `MAX_MEMBERS`."""

    weight: int
    """(M, P)."""
    square: int
    """(M, P), mean squared errors."""
    error: int
    """(M, P), mean squared errors over `TOLD_SAMPLES`, for people: nothing is cut off."""
    lasting: int
    """(M, P), mean squared errors over `LASTING_SEC`."""
    expected: int
    """(M, P), what each expects of the next sample; not finite where it expects nothing."""
    score: int
    """(M,), of one output: scratch."""
    last: int
    """(P,), the last sample."""
    step: int
    """(P,), mean squared difference between samples: persistence's usual error."""
    steps: int
    """(P,), samples in it."""
    seen: int
    """(M,), samples whose errors have been taken in."""
    size: int


class Call(NamedTuple):
    """Places among the 64-bit integers of a call: addresses and numbers; then, for each member, the address
    of its answer (P) in float32 and its number."""

    memory: int
    z: int
    """The sample (F), in float32."""
    y: int
    """The mixed answer (P), in float32."""
    told: int
    """Number of the member with the largest weight, an integer, and the members' mean weights: eight bytes
    each."""
    size: int
    """M."""
    learning: int
    """Whether the sample was measured, and the members are judged by it."""
    lasting: int
    """Samples in `LASTING_SEC`."""
    persistent: int
    """Whether the first member is persistence."""
    members: int


CALL: Final = Call(*range(len(Call._fields)))
CALL_SIZE: Final = CALL.members + 2 * MAX_MEMBERS


def places(outputs: int) -> Places:
    """The memory for so many outputs."""
    table = MAX_MEMBERS * outputs
    return Places(
        *accumulate(
            (0, table, table, table, table, table, MAX_MEMBERS, outputs, outputs, outputs, MAX_MEMBERS)
        )
    )


@lru_cache(maxsize=16)
def mixer(inputs: int, outputs: int) -> Callable[[int], int]:
    """What judges the members by a sample and mixes their answers to it; how many of these were not finite.

    It is called with the address of the integers that `Call` names, after all members have stepped.
    """
    at = places(outputs)
    weight_at, square_at, error_at, lasting_at, expected_at, score_at = at[:6]
    last_at, step_at, steps_at, seen_at, _ = at[6:]

    @njit(**_INLINE)
    def _judge(m: Any, count: Any, p: Any, measured: Any, persistent: Any, lasting: Any) -> None:
        """New weights of an output's members, from what each expected of the value that was measured."""
        if m[steps_at + p] > 0.0:
            step = measured - m[last_at + p]
            share = max(1.0 / m[steps_at + p], 1.0 / USUAL_SAMPLES)
            m[step_at + p] += share * (step * step - m[step_at + p])
        m[steps_at + p] += 1.0
        m[last_at + p] = measured
        least, common = math.inf, math.inf
        for i in range(count):
            e = measured - m[expected_at + i * outputs + p]
            m[score_at + i] = e * e
            if np.isfinite(e):
                least = min(least, e * e)
                if m[seen_at + i] >= SETTLE_SAMPLES:
                    common = min(common, m[square_at + i * outputs + p])
        common += NEGLIGIBLE * m[step_at + p] + 1e-300
        most, weighed, settled, least_lasting = -math.inf, 0, 0, math.inf
        for i in range(count):  # in place of the squared error: the logarithm of the likelihood
            e2, at, seen = m[score_at + i], square_at + i * outputs + p, m[seen_at + i]
            if not np.isfinite(e2):
                continue
            taken = (
                min(e2, MAX_SQUARES * m[at] + NEGLIGIBLE * m[step_at + p]) if seen >= SETTLE_SAMPLES else e2
            )
            m[at] += max(1.0 / (seen + 1.0), 1.0 / ERROR_SAMPLES) * (taken - m[at])
            at += error_at - square_at
            m[at] += max(1.0 / (seen + 1.0), 1.0 / TOLD_SAMPLES) * (e2 - m[at])
            at += lasting_at - error_at
            taken = min(e2, MAX_LASTING_SQUARES * (least + common)) if seen >= SETTLE_SAMPLES else e2
            since = seen + 1.0
            if seen >= SETTLE_SAMPLES:
                since = min(NEWCOMER_SHARE * lasting + since - SETTLE_SAMPLES, lasting)
            m[at] += (taken - m[at]) / max(since, 1.0)
            score = -0.5 * e2 / (common + least)
            if i == 0 and persistent:
                score -= PERSISTENCE_NATS
            m[score_at + i] = score
            if seen >= SETTLE_SAMPLES:
                least_lasting = min(least_lasting, m[at])
                weighed += 1
                most = max(most, score)
            elif seen == SETTLE_SAMPLES - 1.0:
                settled += 1
        total = 0.0
        for i in range(count):
            at = weight_at + i * outputs + p
            if np.isfinite(m[score_at + i]) and m[seen_at + i] >= SETTLE_SAMPLES:
                m[at] *= math.exp(max(m[score_at + i] - most, -MAX_NATS))
            total += m[at]
        if total > 0.0 and weighed > 0:
            for i in range(count):
                at = weight_at + i * outputs + p
                m[at] *= (1.0 - SHARE) / total
                if np.isfinite(m[score_at + i]) and m[seen_at + i] >= SETTLE_SAMPLES:
                    m[at] += SHARE / weighed
        if settled > 0 and weighed > 0:
            for i in range(count):
                at = weight_at + i * outputs + p
                if np.isfinite(m[score_at + i]) and m[seen_at + i] == SETTLE_SAMPLES - 1.0:
                    m[at] = 1.0 / (weighed + settled)
                    m[at + lasting_at - weight_at] = NEWCOMER_SQUARES * least_lasting
                else:
                    m[at] *= weighed / (weighed + settled)

    @njit(**_INLINE)
    def _say(m: Any, count: Any, p: Any) -> Any:
        """Of each member in an output's answer, in place of its score; their sum."""
        tiny = NEGLIGIBLE * m[step_at + p] + 1e-300
        best, most, total = math.inf, 0.0, 0.0
        for i in range(count):
            if m[seen_at + i] >= SETTLE_SAMPLES and np.isfinite(m[expected_at + i * outputs + p]):
                best = min(best, m[lasting_at + i * outputs + p])
        for i in range(count):
            say = m[weight_at + i * outputs + p]
            if best < math.inf and m[seen_at + i] >= SETTLE_SAMPLES:
                say *= ((best + tiny) / (m[lasting_at + i * outputs + p] + tiny)) ** LASTING_POWER
            m[score_at + i] = say
            most = max(most, say)
        for i in range(count):
            if m[score_at + i] < MIN_SAY * most:
                m[score_at + i] = 0.0
            total += m[score_at + i]
        return total

    def mix(call: Any) -> Any:
        count, learning = integer(call, CALL.size), integer(call, CALL.learning) != 0
        persistent, lasting = integer(call, CALL.persistent) != 0, float(integer(call, CALL.lasting))
        m, told = doubles(integer(call, CALL.memory)), doubles(integer(call, CALL.told))
        z, y = pointer(integer(call, CALL.z)), pointer(integer(call, CALL.y))
        if learning:
            for p in range(outputs):
                _judge(m, count, p, np.float64(z[inputs + p]), persistent, lasting)
            for i in range(count):
                if np.isfinite(m[expected_at + i * outputs]):
                    m[seen_at + i] += 1.0
        lost = 0
        for i in range(count):
            answer = pointer(integer(call, CALL.members + 2 * i))
            sound = True
            for p in range(outputs):
                sound = sound and np.isfinite(answer[p])
            lost += not sound
            for p in range(outputs):
                m[expected_at + i * outputs + p] = answer[p] if sound else math.nan
                if not sound:
                    m[weight_at + i * outputs + p] = 0.0
        for i in range(count):
            told[1 + i] = 0.0
        for p in range(outputs):
            total, mean = _say(m, count, p), 0.0
            for i in range(count):
                if m[score_at + i] > 0.0:
                    mean += m[score_at + i] * m[expected_at + i * outputs + p]
                    told[1 + i] += m[score_at + i] / (total * outputs)
            y[p] = np.float32(mean / total) if total > 0.0 else np.float32(math.nan)
        best, leader = -1.0, 0
        for i in range(count):
            if told[1 + i] > best:
                best, leader = told[1 + i], i
        integers(integer(call, CALL.told))[0] = integer(call, CALL.members + 2 * leader + 1)
        return lost

    constants = (
        SHARE,
        ERROR_SAMPLES,
        MAX_SQUARES,
        SETTLE_SAMPLES,
        MIN_SAY,
        MAX_NATS,
        PERSISTENCE_NATS,
        NEGLIGIBLE,
        LASTING_POWER,
        MAX_LASTING_SQUARES,
        NEWCOMER_SQUARES,
        NEWCOMER_SHARE,
    )
    sizes = inputs, outputs, MAX_MEMBERS, USUAL_SAMPLES, TOLD_SAMPLES
    compiled, signature = kept(mix, *sizes, *constants), (types.int64,)
    compiled.compile(signature)
    entry: Callable[[int], int] = compiled.overloads[signature].entry_point
    return entry
