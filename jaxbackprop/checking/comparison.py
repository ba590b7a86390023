"""A gradient under test beside the right one, parameter by parameter, and what explains that they differ.

What rounding inside either gradient moves it by is no difference; nor is, at a kink, another choice of a side.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking import points
from jaxbackprop.checking.decisions import wants_symmetry
from jaxbackprop.checking.diagnosis import Diagnosis, Evidence
from jaxbackprop.checking.leaves import as_float64, eps, max_each, on_host, one_line
from jaxbackprop.checking.points import Points
from jaxbackprop.checking.reference import LOOP_STEPS, SAFETY, Reference, Right, between_kinks, right_gradients, slack
from jaxbackprop.checking.rounding import narrowest, scattered
from jaxbackprop.checking.tested import Tested
from jaxbackprop.programs.flat import Program, flatten


class Subject(NamedTuple):
    """What is known of one parameter.

    Attributes:
        name: its path.
        dtype: its dtype.
        given: the gradient under test, in that dtype, at the given parameters; None where there is none.
        problem: what is wrong with the gradient's place, shape or dtype.
        right: the right gradient, at every point.
        evidence: both gradients side by side; None where they cannot be compared.
        scatter: what rounding inside either gradient moves it by at the given parameters, in units of eps, where asked.
    """

    name: str
    dtype: Any
    given: Any
    problem: Diagnosis | None
    right: Right
    evidence: Evidence | None
    scatter: float = 0.0

    @property
    def disputed(self) -> bool:
        """Whether the gradient under test and `jax.grad` differ by more than rounding explains."""
        return self.evidence is not None and bool(self.evidence.wrong.any())


class Comparison(NamedTuple):
    """Both gradients at some points.

    Attributes:
        reference: what is made from the value.
        at: the points.
        data: as they were given.
        tested: the gradient under test.
        subjects: the parameters.
        notes: what else is to be said.
    """

    reference: Reference
    at: Points
    data: Any
    tested: Tested
    subjects: tuple[Subject, ...]
    notes: tuple[str, ...]

    @property
    def evidence(self) -> list[Evidence]:
        """Of the parameters whose gradients can be compared."""
        return [s.evidence for s in self.subjects if s.evidence is not None]

    @property
    def wrong_at(self) -> set[int]:
        """The points where the two differ."""
        return {int(k) for e in self.evidence for k in np.nonzero(e.wrong)[0]}

    def leaves(self, k: int) -> list[np.ndarray]:
        """The parameters of a point."""
        return list(map(as_float64, jax.tree.leaves(self.at.params[k])))

    def with_evidence(self, change: Callable[[int, Evidence], Evidence]) -> "Comparison":
        """The same with (i, evidence) → evidence."""
        changed = (
            s if s.evidence is None else s._replace(evidence=change(i, s.evidence)) for i, s in enumerate(self.subjects)
        )
        return self._replace(subjects=tuple(changed))


def compared(reference: Reference, tested: Tested, params, data, given, rng: np.random.Generator) -> Comparison:
    """Put the gradient under test beside the reference; `given`: what it returned, by name."""
    at, notes = _drawn(reference, params, data, rng)
    right = _scaled(at, right_gradients(reference, at.params, data, rng))
    at, right = _only(_finite(right), at, right)
    leaves, refused = _answers(tested, at, data)
    these = [k for k, some in leaves.items() if not at.scaled[k] or _has_answer(some)]
    large = ["at parameters of another scale the gradient is not finite: they are left out"]
    at, right = _only(these, at, right)
    subjects, inside = _subjects(reference, tested, [leaves[k] for k in these], at, given, right)
    notes = [*notes, *tested.notes, *refused, *(large if len(these) < len(leaves) else []), *inside]
    return _between_kinks(_allowing_scatter(Comparison(reference, at, data, tested, subjects, tuple(notes)), rng))


# Points


def _drawn(reference: Reference, params, data, rng) -> tuple[Points, list[str]]:
    """The given point and drawn ones where the value is finite, and a note where loops did not settle."""
    host_data, finite = on_host(data), []

    def look(at):
        there = reference.look(on_host(at), host_data, False, reference.nothing_held)
        finite.append(bool(np.isfinite(there.value)))
        return there

    if not np.isfinite(look(params).value):
        endless = f", or a loop in it has not settled after {LOOP_STEPS} steps" if reference.further else ""
        raise ValueError(f"value is not finite at the given parameters and data{endless}: check where it is")
    at = points.choose(points.draw(look, params, rng, bool(wants_symmetry(reference.program))))
    left_out = (
        f"at {finite.count(False)} of {len(finite)} points that were looked at the value is not finite, or a loop has not "
        f"settled after {LOOP_STEPS} steps: they are left out"
    )
    return at, [left_out] if reference.further and not all(finite) else []


def _answers(tested: Tested, at: Points, data) -> tuple[dict[int, list[Any]], list[str]]:
    """The gradient under test at each point, and what it raised: it may refuse parameters that were drawn."""
    leaves, raised = {}, []
    for k, params in enumerate(at.params):
        try:
            leaves[k] = [None if leaf is None else as_float64(leaf) for leaf in tested.leaves_at(params, data)]
        except Exception as error:  # anyone's code
            if k == 0:
                raise
            raised.append(f"at some drawn parameters the gradient raises {one_line(error)}: they are left out")
    return leaves, raised


def _finite(right: list[Right]) -> list[int]:
    """The given point, and those where all gradients are finite."""
    return [k for k in range(len(right[0].at)) if k == 0 or all(np.isfinite(r.at[k]).all() for r in right)]


def _has_answer(leaves: list[Any]) -> bool:
    """Whether the gradient under test does not overflow: nobody may ever come to points of another scale."""
    return all(leaf is None or bool(np.isfinite(leaf).all()) for leaf in leaves)


def _only(these: list[int], at: Points, right: list[Right]) -> tuple[Points, list[Right]]:
    kept = [r._replace(at=r.at[these], lost=r.lost[these], unsettled=r.unsettled[these]) for r in right]
    return at.only(these), kept


def _scaled(at: Points, right: list[Right]) -> list[Right]:
    """At points of another scale a gradient may vanish, as a sigmoid's: rounding is of the size that it has elsewhere."""
    usual = [np.where(np.isfinite(r.at), r.at, 0)[~at.scaled] for r in right]
    return [
        r._replace(lost=np.where(at.scaled, np.maximum(r.lost, max_each(u).max()), r.lost))
        for r, u in zip(right, usual, strict=True)
    ]


def never_seen(seen: Comparison) -> str:
    """Where the decisions are that were not seen on both sides, and what to do; "" where all were."""
    if seen.at.seen.all():
        return ""
    batch, data = points.batch_size(seen.data), on_host(seen.data)
    where = points.places(seen.reference.program, batch, on_host(seen.at.params[0]), data)
    count = Counter(place for place, both in zip(where, seen.at.seen, strict=True) if not both)
    shown = ", ".join(f"{n} {place}" for place, n in list(count.items())[:4]) + (", …" if len(count) > 4 else "")
    return (
        f"never on both sides: {shown}; parameters were drawn up to {points.SCALES[-2]:.0e} times their size, "
        "data stay as given: check with data that reach them"
    )


# Side by side


def _subjects(reference, tested: Tested, leaves, at: Points, given, right) -> tuple[tuple[Subject, ...], list[str]]:
    """Put the gradient under test beside the right one, parameter by parameter; and a note on its precision."""
    params, notes = at.params[0], []
    problems = [
        _outer_problem(given.get(s), param, r.at[0]) for (s, param), r in zip(params.items(), right, strict=True)
    ]

    def beside(dtype) -> list[Evidence | None]:
        return [
            _evidence(reference, path, [some[i] for some in leaves], r, dtype)
            if problem is None or problem.kind == "dtype"
            else None
            for i, (path, problem, r) in enumerate(zip(params, problems, right, strict=True))
        ]

    evidence = beside(tested.dtype)
    if tested.dtype == "float64" and tested.program and any(e is not None and e.wrong.any() for e in evidence):
        inside = narrowest(tested.program)
        if inside != "float64":
            notes = [f"the gradient computes in {inside} inside, whatever it is given: judged by that precision"]
            evidence = beside(inside)
    of = zip(params.items(), problems, right, evidence, strict=True)
    return tuple(Subject(s, leaf.dtype, given.get(s), problem, r, e) for (s, leaf), problem, r, e in of), notes


def _evidence(reference: Reference, path: str, given: Sequence[Any], right: Right, dtype: str) -> Evidence | None:
    """One parameter's gradients; None where they are of two shapes."""
    if any(np.shape(leaf) != right.at.shape[1:] for leaf in given):
        return None
    nowhere = np.zeros(right.at.shape, bool)
    return Evidence(path, np.stack(given), right.at, slack(reference, right, dtype), nowhere)


def _outer_problem(leaf, param, right) -> Diagnosis | None:
    if leaf is None:
        return Diagnosis("structure", "the gradient has nothing for this parameter")
    if np.shape(leaf) != param.shape:
        text = f"the gradient has shape {np.shape(leaf)}, the parameter {param.shape}"
        turned = np.shape(leaf) == param.shape[::-1] and np.allclose(as_float64(leaf).T, right, rtol=1e-3)
        return Diagnosis("transpose", f"{text}: it is transposed") if turned else Diagnosis("shape", text)
    dtype = getattr(leaf, "dtype", param.dtype)  # a plain number takes any
    wider = jnp.issubdtype(dtype, jnp.floating) and eps(dtype) < eps(param.dtype)  # NumPy's float64, say
    if dtype != param.dtype and not wider:
        return Diagnosis("dtype", f"the gradient is {dtype}, the parameter {param.dtype}")
    return None


# What explains a difference


def allowed(reference: Reference, subject: Subject) -> float:
    """What arithmetic explains of the error at the given parameters, in their own dtype."""
    unit = SAFETY * eps(subject.dtype)
    explained = float(slack(reference, subject.right, str(subject.dtype))[0])
    return max(explained, unit * subject.right.moved, unit * subject.scatter)


def _allowing_scatter(seen: Comparison, rng) -> Comparison:
    """Where the two gradients differ, allow what rounding inside either of them moves it by.

    A textbook's (x cos x − sin x) / x² cancels near 0, and so does p (c − Σ p c) where a softmax is saturated: the size of
    what is left says little of how exact it is.
    """
    own = [s for s in seen.subjects if s.evidence is not None and np.shape(s.given) == s.right.at.shape[1:]]
    errors = (np.abs(as_float64(s.given) - s.right.at[0]) <= allowed(seen.reference, s) for s in own)
    looked_at = seen.wrong_at | (set() if all(np.all(within) for within in errors) else {0})
    if not looked_at:
        return seen
    host_data = on_host(seen.data)

    def right(params, *data):
        return jax.tree.leaves(seen.reference.value_and_grad(params, *data)[1])

    moved = [np.zeros(len(seen.at.params)) for _ in seen.subjects]
    programs = flatten(right, on_host(seen.at.params[0]), *host_data), seen.tested.program
    for program in filter(None, programs):
        for k in sorted(looked_at):
            spread = _spread(program, jax.tree.leaves((on_host(seen.at.params[k]), host_data)), rng)
            for m, apart in zip(moved, spread, strict=False):
                m[k] = max(m[k], apart)
    subjects = (s._replace(scatter=float(m[0]) / eps("float64")) for s, m in zip(seen.subjects, moved, strict=True))
    return seen._replace(subjects=tuple(subjects)).with_evidence(
        lambda i, e: e._replace(slack=e.slack + SAFETY * moved[i])
    )


def _spread(program: Program, leaves: list[Any], rng) -> list[float]:
    """How far rounding inside a gradient moves each of its leaves."""
    try:
        grads = [jax.tree.unflatten(program.structure, out) for out in scattered(program, leaves, rng)]
    except Exception:  # anyone's code, in steps that need not run one by one: it is allowed nothing more
        return []
    ranges = (np.ptp(g, axis=0) if g[0] is not None else np.zeros(()) for g in zip(*grads, strict=True))
    return [float(np.nan_to_num(np.asarray(apart, np.float64), posinf=0).max(initial=0)) for apart in ranges]


def _between_kinks(seen: Comparison) -> Comparison:
    """At points where decisions sit on their kinks, accept what lies between the gradients of the sides they may take."""
    reference, host_data, bounds = seen.reference, on_host(seen.data), {}
    for k in sorted(seen.wrong_at) if reference.reversible else ():
        at = on_host(seen.at.params[k])
        if bool(reference.look(at, host_data, False, reference.nothing_held).tied):
            bounds[k] = between_kinks(reference, at, host_data)

    def accepting(i: int, e: Evidence) -> Evidence:
        at_kink = np.zeros_like(e.at_kink)
        for k, found in bounds.items():
            low, high = found[i]
            at_kink[k] = (low - e.slack[k] <= e.given[k]) & (e.given[k] <= high + e.slack[k]) & e.wrong[k]
        return e._replace(at_kink=at_kink)

    return seen.with_evidence(accepting)
