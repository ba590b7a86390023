"""What a wrong gradient looks like, read off one parameter: a factor, a sign, a transpose, one row of the right gradient.

Each familiar mistake that shows in one parameter's gradient G beside the right one R is compared with G at all points. Where
none fits it is said what is known: which entries are wrong, and how G lies to R.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.checking.leaves import like, max_each, relative
from jaxbackprop.programs.flat import Constant, Program

NOISE = 1e-10
MATCH = 1e-4  # of the error that is to be explained; mistakes that are no explanation are off by its own size


class Diagnosis(NamedTuple):
    """What kind of mistake an error looks like, and that in words.

    Kinds: structure, shape, dtype, not finite, precision, zero, factor, sign, transpose, penalty, entry, row, column, swapped,
    stale, derivative missing, value for derivative, path missing, weights, source, jax.grad, unknown.
    """

    kind: str
    text: str


class Evidence(NamedTuple):
    """One parameter's gradient under test and the right one, over several points (first axis), in float64.

    Attributes:
        name: the parameter's path.
        given: the gradient under test.
        right: `jax.grad`'s.
        slack: what rounding explains, one number for each point.
        at_kink: which entries lie between the sides of a kink.
    """

    name: str
    given: np.ndarray
    right: np.ndarray
    slack: np.ndarray
    at_kink: np.ndarray

    def flat(self, point: int) -> tuple[np.ndarray, np.ndarray]:
        """Both gradients at one point, raveled."""
        return self.given[point].reshape(-1), self.right[point].reshape(-1)

    @property
    def error(self) -> np.ndarray:
        """How far the two are apart, (points, …); infinite where either is not finite."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.abs(self.given - self.right), nan=np.inf, posinf=np.inf)

    @property
    def worst_point(self) -> int:
        """Where the largest of the errors that count is, relative to the right gradient's largest entry there."""
        error = np.where(self.wrong, self.error, 0) if self.wrong.any() else self.error
        return int(np.argmax(relative(max_each(error), max_each(self.right))))

    @property
    def wrong(self) -> np.ndarray:
        """Where the two differ by more than rounding and kinks explain, (points, …)."""
        return ~(self.error <= like(self.slack, self.right)) & ~self.at_kink

    def equals(self, other: np.ndarray, at: Any = slice(None)) -> bool:
        """Whether the gradient under test is `other` (at some points), but for a small part of its error, and rounding."""
        if other.shape != self.given[at].shape:
            return False
        # where all is dead at one point, what is left is noise of the size at others
        noise = np.maximum(4 * self.slack, NOISE * max_each(self.right).max())
        limit = np.maximum(noise, MATCH * max_each(self.error))[at]
        return bool(np.all(np.abs(self.given[at] - other) <= like(limit, other)))


class About(NamedTuple):
    """What of the value and of the data a mistake may come from.

    Attributes:
        batch: how many examples there are, where the data say so.
        halved: whether there is a ½ in the value that can be forgotten.
        sizes: lengths of axes of the data.
    """

    batch: int | None
    halved: bool
    sizes: tuple[int, ...]


def of_one(evidence: Evidence, others: Sequence[Evidence], about: About, params: np.ndarray) -> Diagnosis | None:
    """Read a mistake off one parameter's gradient: what it is of the right one, of another's, or of the parameter itself.

    `params`: the parameter, (points, …).
    """
    if not np.isfinite(evidence.given).all():
        return _not_finite(evidence.given)
    if not evidence.given.any():
        return Diagnosis("zero", "it is all zeros: this parameter's gradient was left out")
    return (
        _times_all(evidence, others, about)
        or next((Diagnosis("transpose", f"it is {w}") for w, r in _turned(evidence.right) if evidence.equals(r)), None)
        or _penalty(evidence, params)
        or _swapped(evidence, others)
        or _at_one_place(evidence)
    )


def _not_finite(given: np.ndarray) -> Diagnosis:
    bad = np.argwhere(~np.isfinite(given))
    more = f", {len(bad) - 1} more over the points" if len(bad) > 1 else ""
    return Diagnosis("not finite", f"{given[tuple(bad[0])]} at {_index(bad[0][1:])}{more}")


def _times_all(evidence: Evidence, others: Sequence[Evidence], about: About) -> Diagnosis | None:
    factor, right = _ratio(evidence.given, evidence.right), evidence.right
    if factor is None or not evidence.equals(factor * right):
        return None
    # what all gradients come from has its ½: where one of them is right that was not forgotten
    halved = about.halved and all(other.wrong.any() for other in others)
    return _of_factor(factor, about.batch, [n for n in (*right.shape[1:], *about.sizes) if n > 1], halved)


def _penalty(evidence: Evidence, params: np.ndarray) -> Diagnosis | None:
    for words, term in (("the parameter itself", params), ("the parameter's sign", np.sign(params))):
        share = _ratio(evidence.given - evidence.right, term)
        if share is not None and evidence.equals(evidence.right + share * term):
            added = "added that the value has not, or has with another factor"
            sign, more = ("plus", added) if share > 0 else ("less", "of the value left out, or a part of it")
            text = f"it is the right one {sign} {abs(share):.6g} times {words}: is a weight decay {more}?"
            return Diagnosis("penalty", text)
    return None


def _swapped(evidence: Evidence, others: Sequence[Evidence]) -> Diagnosis | None:
    for other in others:
        # only where that one is wrong too: dW2 = dz h0ᵀ may equal dW3, and be a wrong source
        if other.name != evidence.name and other.wrong.any() and evidence.equals(other.right):
            return Diagnosis("swapped", f"it is the gradient of {other.name}")
    return None


def _at_one_place(evidence: Evidence) -> Diagnosis | None:
    """One entry that is wrong, or one row or column that is a multiple of the right one."""
    given, right, places = evidence.given, evidence.right, np.asarray(evidence.wrong.any(axis=0))
    if places.sum() == 1 and places.size > 1:
        (index,) = np.argwhere(places)
        at = (slice(None), *index)
        return Diagnosis("entry", f"only the entry {_index(index)} is wrong{_times(_ratio(given[at], right[at]))}")
    for axis, line in ((0, "row"), (1, "column")) if places.ndim == 2 else ():
        lines = np.flatnonzero(places.any(axis=1 - axis))
        if len(lines) == 1 and places.shape[axis] > 1:
            part, right_part = (a.take(lines[0], axis + 1) for a in (given, right))
            ratio, limit = _ratio(part, right_part), MATCH * float(np.max(np.abs(part)))
            if ratio is not None and np.max(np.abs(part - ratio * right_part)) <= limit:
                return Diagnosis(line, f"only {line} {lines[0]} is wrong{_times(ratio)}")
    return None


def _turned(right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The right gradient with two axes swapped, reversed along one, or moved along one."""
    axes = range(1, right.ndim)
    for i, j in itertools.combinations(axes, 2):
        if right.shape[i] == right.shape[j]:
            yield (
                "transposed" if right.ndim == 3 else f"with its axes {i - 1} and {j - 1} swapped",
                right.swapaxes(i, j),
            )
    for axis in axes:
        yield f"reversed along axis {axis - 1}", np.flip(right, axis)
        for by in (1, -1) if right.shape[axis] > 2 else ():
            yield f"moved by one along axis {axis - 1}", np.roll(right, by, axis)


def unknown(evidence: Evidence | None) -> Diagnosis:
    """What is left to say: how many entries are wrong, at the point where most are, in which lines, and in what direction."""
    assert evidence is not None
    wrong = evidence.wrong.reshape(len(evidence.wrong), -1)
    said = f"{wrong.sum(axis=1).max()} of {wrong.shape[1]} entries are wrong, in no familiar way"
    return Diagnosis(
        "unknown", "; ".join([said, *_lines(np.asarray(evidence.wrong.any(axis=0))), *_direction(evidence)])
    )


def _lines(places: np.ndarray) -> Iterator[str]:
    """Which rows, columns or the like hold all that is wrong, where others are right."""
    for axis, length in enumerate(places.shape):
        lines = np.flatnonzero(places.any(axis=tuple(k for k in range(places.ndim) if k != axis)))
        if len(lines) < length:
            word = ("rows", "columns")[axis] if places.ndim == 2 else f"along axis {axis},"
            shown = ", ".join(map(str, lines[:6])) + (", …" if len(lines) > 6 else "")
            yield f"{word} {shown} of {length} alone"


def _direction(evidence: Evidence) -> Iterator[str]:
    """How the gradient lies to the right one where the error is largest."""
    given, right = evidence.flat(evidence.worst_point)
    size = float(np.linalg.norm(given) * np.linalg.norm(right))
    if given.size < 2 or size == 0:
        return
    cosine = float(given @ right) / size
    if abs(cosine) < 1e-9:
        yield "it is orthogonal to the right one"
    elif abs(cosine) > 1 - 1e-9:
        yield "it is parallel to the right one, by a factor that changes from point to point"
    else:
        yield f"the cosine of its angle to the right one is {cosine:.2g}"


def stale(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Whether the gradient does not change from point to point, where the right one does."""
    same = all(len(one.given) > 1 and (one.given == one.given[:1]).all() for one in evidence)
    if not same or all((one.right == one.right[:1]).all() for one in evidence):
        return None
    return Diagnosis("stale", "it is the same whatever parameters it is given: were they captured, are they old?")


def has_half(program: Program) -> bool:
    """Whether something is halved."""
    factors = [(step.name, o.value) for step in program.steps for o in step.reads if isinstance(o, Constant)]
    return any(np.ndim(c) == 0 and complex(c) == {"mul": 0.5, "div": 2.0}.get(name) for name, c in factors)


# Words and small arithmetic


def _of_factor(factor, batch, sizes, halved) -> Diagnosis:
    if abs(factor + 1) < 1e-6:
        return Diagnosis("sign", "it has the wrong sign")
    said = {2.0: ": is the ½ of the loss forgotten?"} if halved else {}
    if batch and batch > 1:
        said = {
            float(batch): f": the sum over the batch of {batch}, not its mean?",
            1 / batch: f": divided by the batch's {batch} once too often?",
        } | said
    why = next((words for value, words in said.items() if abs(factor / value - 1) < 1e-6), "")
    why = why or guess(factor, [n for n in sizes if n > 2])
    forgotten = ": is a factor 2 forgotten?" if abs(factor - 0.5) < 1e-6 else ""
    return Diagnosis("factor", f"it is {factor:.6g} times the right one{why or forgotten or guess(factor, sizes)}")


def guess(factor: float, sizes: Iterable[int]) -> str:
    """Where a factor may come from, as a question: a root, a size or a size less one; "" where nothing fits.

    >>> guess(2.0, [4]), guess(1.5, [3]), guess(0.2, [5]), guess(0.77, [4])
    (' (2 = √4: is 1/√4 left out?)', ' (1.5 = 3/2: n − 1 for n = 3?)', ' (0.2 = 1/5: divided by 5 once too often?)', '')
    """
    for n in sizes:
        known = {
            n**0.5: f"√{n}: is 1/√{n} left out?",
            n**-0.5: f"1/√{n}: divided by √{n} once too often?",
            float(n): f"{n}: is 1/{n} left out?",
            1 / n: f"1/{n}: divided by {n} once too often?",
        }
        if n > 2:
            known |= {
                n / (n - 1): f"{n}/{n - 1}: n − 1 for n = {n}?",
                (n - 1) / n: f"{n - 1}/{n}: n for n − 1 = {n - 1}?",
            }
        for value, words in known.items():
            if abs(factor / value - 1) < 1e-6:
                figure = f"{factor:.6g}"
                return f" ({words.removeprefix(f'{figure}: ') if words.startswith(figure) else f'{figure} = {words}'})"
    return ""


def _ratio(given, right) -> float | None:
    square = float(np.sum(right * right))
    return float(np.sum(given * right)) / square if square > 0 else None


def _times(ratio) -> str:
    if ratio is None:
        return ""
    return ": its sign" if abs(ratio + 1) < 1e-6 else f": {ratio:.6g} times the right one"


def _index(index) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]" if len(index) else "the scalar"
