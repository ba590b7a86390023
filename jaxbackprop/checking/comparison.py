"""A gradient under test beside the right one: what differs, who is right where they do, and what it looks like."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking import diagnosis, differences, points, terms
from jaxbackprop.checking.closures import with_arrays_widened
from jaxbackprop.checking.decisions import narrowest, opaque, scattered, wants_symmetry
from jaxbackprop.checking.diagnosis import Diagnosis, Evidence
from jaxbackprop.checking.differences import Slope
from jaxbackprop.checking.leaves import (
    as_float64,
    eps,
    is_symmetric,
    max_each,
    narrowest_of,
    on_host,
    one_line,
    relative,
    widened,
)
from jaxbackprop.checking.reference import (
    SAFETY,
    STEPS,
    Reference,
    Right,
    between_kinks,
    forward_mode,
    right_gradients,
    slack,
)
from jaxbackprop.checking.report import Kinks, Report, Row
from jaxbackprop.programs.flat import flatten
from jaxbackprop.programs.loops import bounded, has_loops

CONFIRMED = 64  # entries that differ from jax.grad and are looked at by differences, at most
TRIED, TOGETHER = 256, 32  # mistakes made on purpose, and how many in one program
TELLING = 3  # points that a mistake made on purpose must explain
SYMMETRIC = "JAX's rule for {} is that of symmetric matrices: give it (A + Aᵀ) / 2"
ORDERED = "JAX's rule for lax.clamp is that of bounds in order, min ≤ max: jnp.clip has one for all"
EXAMPLES = 32  # looked at one by one, at most


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


def compare(reference: Reference, gradient: Callable, params, data, given, rng: np.random.Generator) -> Report:
    """Compare a gradient with the reference, both of arrays by name; `given` is what it returned. Runs with 64-bit types on."""
    notes: list[str] = []
    chosen, right = _points(reference, params, data, rng, notes)
    tested, answered = _run(gradient, chosen.params, data, notes)
    chosen, right = _only(answered, chosen, right)
    tested, chosen, right = _with_an_answer(tested, chosen, right, notes)
    subjects = _subjects(reference, gradient, tested, chosen.params, data, given, right, notes)
    subjects = _allowing_scatter(reference, gradient, subjects, chosen, data, rng)
    subjects = _between_kinks(reference, subjects, chosen, data)
    looked = _look_by_differences(reference, subjects, chosen, data, rng)
    rows = [_judge(reference, subject, some, notes) for subject, some in zip(subjects, looked, strict=True)]
    rows = _explained(reference, rows, subjects, chosen, data)
    rows = _by_example(reference, tested, rows, subjects, chosen, data)
    if reference.dtype != "float64":
        notes.append(f"the value computes in {reference.dtype} inside, whatever it is given: judged by that precision")
    if inside := ", ".join(opaque(reference.program)):
        notes.append(f"cannot look into {inside}: kinks and decisions in there are not seen")
    if not chosen.seen.all():
        notes.append(_never_seen(reference, chosen, data))
    notes += forward_mode(reference, params, data, right, rng)
    covered = len(chosen.params), chosen.units, chosen.both_sides
    return Report(tuple(rows), *covered, tuple(dict.fromkeys(notes)), opaque(reference.program))


def _points(reference: Reference, params, data, rng, notes) -> tuple[points.Points, list[Right]]:
    """The given point and drawn ones where both value and gradient are finite, with the right gradients there."""
    host_data, finite = on_host(data), []

    def look(at):
        there = reference.look(on_host(at), host_data, False, reference.nothing_held)
        finite.append(bool(np.isfinite(there.value)))
        return there

    if not np.isfinite(look(params).value):
        endless = f", or a loop in it has not settled after {STEPS} steps" if reference.further else ""
        raise ValueError(f"value is not finite at the given parameters and data{endless}: check where it is")
    chosen = points.choose(points.draw(look, params, rng, bool(wants_symmetry(reference.program))))
    if reference.further and not all(finite):
        notes.append(
            f"at {finite.count(False)} of {len(finite)} points that were looked at the value is not finite, or a loop has not "
            f"settled after {STEPS} steps: they are left out"
        )
    right = _scaled(chosen, right_gradients(reference, chosen.params, data, rng))
    finite = [k for k in range(len(chosen.params)) if k == 0 or all(np.isfinite(r.at[k]).all() for r in right)]
    return _only(finite, chosen, right)


def _only(these: list[int], chosen: points.Points, right: list[Right]) -> tuple[points.Points, list[Right]]:
    kept = [r._replace(at=r.at[these], lost=r.lost[these], unsettled=r.unsettled[these]) for r in right]
    return chosen.only(these), kept


def _scaled(chosen: points.Points, right: list[Right]) -> list[Right]:
    """At points of another scale a gradient may vanish, as a sigmoid's: rounding is of the size that it has elsewhere."""
    usual = [np.where(np.isfinite(r.at), r.at, 0)[~chosen.scaled] for r in right]
    return [
        r._replace(lost=np.where(chosen.scaled, np.maximum(r.lost, max_each(u).max()), r.lost))
        for r, u in zip(right, usual, strict=True)
    ]


def _with_an_answer(tested: "Tested", chosen, right, notes) -> tuple["Tested", points.Points, list[Right]]:
    """Leave out points of another scale where the gradient under test overflows: nobody may ever come there."""

    def finite(k: int) -> bool:
        return all(leaf is None or bool(np.isfinite(leaf).all()) for leaf in tested.leaves[k])

    these = [k for k, scaled in enumerate(chosen.scaled) if not scaled or finite(k)]
    if len(these) == len(tested.leaves):
        return tested, chosen, right
    notes.append("at parameters of another scale the gradient is not finite: they are left out")
    return tested._replace(leaves=[tested.leaves[k] for k in these]), *_only(these, chosen, right)


def _never_seen(reference: Reference, chosen: points.Points, data) -> str:
    """Where the decisions are that were not seen on both sides, and what to do."""
    where = points.places(reference.program, points.batch_size(data), on_host(chosen.params[0]), on_host(data))
    count = Counter(place for place, seen in zip(where, chosen.seen, strict=True) if not seen)
    shown = ", ".join(f"{n} {place}" for place, n in list(count.items())[:4]) + (", …" if len(count) > 4 else "")
    return (
        f"never on both sides: {shown}; parameters were drawn up to {points.SCALES[-2]:.0e} times their size, "
        "data stay as given: check with data that reach them"
    )


# The gradient under test


def _subjects(reference, gradient, tested: "Tested", at, data, given, right, notes) -> list[Subject]:
    """Put the gradient under test beside the right one, parameter by parameter."""
    paths, leaves = list(at[0]), list(at[0].values())
    aligned = [given.get(path) for path in paths]
    problems = [_outer_problem(leaf, param, r.at[0]) for leaf, param, r in zip(aligned, leaves, right, strict=True)]
    comparable = [
        (problem is None or problem.kind == "dtype")
        and all(np.shape(point[i]) == r.at.shape[1:] for point in tested.leaves)
        for i, (problem, r) in enumerate(zip(problems, right, strict=True))
    ]

    def beside(dtype) -> list[Evidence | None]:
        return [
            Evidence(
                path,
                np.stack([point[i] for point in tested.leaves]),
                r.at,
                slack(reference, r, dtype),
                np.zeros(r.at.shape, bool),
            )
            if ok
            else None
            for i, (path, r, ok) in enumerate(zip(paths, right, comparable, strict=True))
        ]

    evidence = beside(tested.dtype)
    if tested.dtype == "float64" and any(e is not None and e.wrong.any() for e in evidence):
        inside = narrowest(gradient, widened(at[0]), *widened(data)) or "float64"
        if inside != "float64":
            notes.append(f"the gradient computes in {inside} inside, whatever it is given: judged by that precision")
            evidence = beside(inside)
    return [
        Subject(path, leaf.dtype, aligned[i], problems[i], right[i], evidence[i])
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
    ]


def loops_bounded(gradient, params, data) -> Callable:
    """The gradient under test; if JAX can trace it and it loops, with loops that end: drawn parameters may never settle."""
    try:
        loops = has_loops(flatten(gradient, widened(params), *widened(data)))
    except Exception:  # anyone's code
        return gradient
    return jax.jit(bounded(gradient, STEPS)) if loops else gradient


class Tested(NamedTuple):
    """The gradient under test: its leaves at each point, the dtype that it computes in, and how to call it again."""

    leaves: list[list[Any]]
    dtype: str
    leaves_at: Callable


def _run(gradient, at: list[Any], data, notes) -> tuple[Tested, list[int]]:
    """Run the gradient under test at every point, in float64 where it can; and the points that it has an answer for."""
    paths = list(at[0])

    def leaves_of(grads):
        return [grads.get(path) for path in paths]

    def in_float64(function):
        ends = loops_bounded(function, at[0], data)
        return lambda params, data: leaves_of(ends(widened(params), *widened(data)))

    def as_given(params, data):
        with jax.enable_x64(dtype == "float64"):
            return leaves_of(gradient(jax.tree.map(jnp.asarray, params), *data))

    try:
        run, first = _first_that_runs((in_float64(f) for f in (gradient, with_arrays_widened(gradient))), at[0], data)
        dtype = narrowest_of(jnp.result_type(leaf) for leaf in first if leaf is not None)
        if dtype != "float64":
            notes.append(f"given float64, the gradient returns {dtype}: judged by that precision")
    except Exception as error:  # anyone's code: it need not take float64
        run, dtype = as_given, narrowest_of(leaf.dtype for leaf in jax.tree.leaves(at[0]))
        notes.append(f"the gradient does not run in float64 ({one_line(error)}): judged in {dtype} alone")
    leaves, answered = [], []
    for k, params in enumerate(at):
        try:
            leaves.append([None if leaf is None else as_float64(leaf) for leaf in run(params, data)])
            answered.append(k)
        except Exception as error:  # it may refuse parameters that were drawn
            if k == 0:
                raise
            notes.append(f"at some drawn parameters the gradient raises {one_line(error)}: they are left out")
    return Tested(leaves, dtype, run), answered


def _first_that_runs(functions, *args) -> tuple[Callable, Any]:
    """The first of some functions that runs, with what it returns; what the first raised, where none does."""
    raised = []
    for function in functions:
        try:
            return function, function(*args)
        except Exception as error:  # anyone's code
            raised.append(error)
    raise raised[0]


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


# Differences


class _Direction(NamedTuple):
    """±1, or up to that, on some entries of one raveled parameter, at one point; whether its gradient is disputed there."""

    point: int
    entries: np.ndarray
    disputed: bool


class _Looked(NamedTuple):
    """What differences say about one direction.

    Attributes:
        disputed: whether the gradient under test and `jax.grad` differ there.
        slope: the slope by differences.
        slack: what the prediction may be off by from rounding.
        apart: how far the gradient under test and `jax.grad` are apart.
    """

    disputed: bool
    slope: Slope
    slack: float
    apart: float

    @property
    def at_kink(self) -> bool:
        """Whether no step is clear of a kink."""
        return self.slope.kind == "at"

    @property
    def agrees(self) -> bool:
        """Whether differences allow the gradient under test.

        They refute a gradient that is `jax.grad`'s where there is one slope only: units that sit on their kinks together
        may give a derivative, by the chain rule, that lies outside the two slopes. They confirm one that is not
        `jax.grad`'s where they are exact enough to tell the two apart.
        """
        if not self.disputed:
            return self.at_kink or self.slope.allows(self.slack)
        return self.slope.allows(self.slack) and self.slope.error <= 0.1 * self.apart


def _allowing_scatter(reference: Reference, gradient, subjects: list[Subject], chosen, data, rng) -> list[Subject]:
    """Where the two gradients differ, allow what rounding inside either of them moves it by; ties are looked at by themselves.

    A textbook's (x cos x − sin x) / x² cancels near 0, and so does p (c − Σ p c) where a softmax is saturated: the size of
    what is left says little of how exact it is.
    """
    host_data = on_host(data)
    wrong_at = {int(k) for s in subjects if s.evidence is not None for k in np.nonzero(s.evidence.wrong)[0]}
    own = (s for s in subjects if s.evidence is not None and np.shape(s.given) == s.right.at.shape[1:])
    imprecise = any(not np.all(np.abs(as_float64(s.given) - s.right.at[0]) <= _allowed(reference, s)) for s in own)
    disputed = sorted(wrong_at | ({0} if imprecise else set()))
    if not disputed:
        return subjects

    def right(params, *data):
        return reference.value_and_grad(params, *data)[1]

    moved = [np.zeros(len(chosen.params)) for _ in subjects]
    for function in (right, gradient):
        try:
            program = flatten(function, on_host(chosen.params[0]), *host_data)
            for k in disputed:
                leaves = jax.tree.leaves((on_host(chosen.params[k]), host_data))
                grads = [jax.tree.unflatten(program.structure, out) for out in scattered(program, leaves, rng)]
                for i, s in enumerate(subjects):
                    some = np.stack([as_float64(g[s.name]) for g in grads])
                    moved[i][k] = max(moved[i][k], np.nan_to_num(np.ptp(some, axis=0), posinf=0).max(initial=0))
        except Exception:  # anyone's code, which need not be one that JAX can trace: it is allowed nothing more
            continue
    return [
        s
        if s.evidence is None
        else s._replace(
            evidence=s.evidence._replace(slack=s.evidence.slack + SAFETY * m), scatter=float(m[0]) / eps("float64")
        )
        for s, m in zip(subjects, moved, strict=True)
    ]


def _between_kinks(reference: Reference, subjects: list[Subject], chosen, data) -> list[Subject]:
    """At points where decisions sit on their kinks, accept what lies between the gradients of the sides they may take."""
    wrong_at = {int(k) for s in subjects if s.evidence is not None for k in np.nonzero(s.evidence.wrong)[0]}
    host_data = on_host(data)
    for k in sorted(wrong_at):
        at = on_host(chosen.params[k])
        if not reference.reversible or not bool(reference.look(at, host_data, False, reference.nothing_held).tied):
            continue
        for i, (low, high) in enumerate(between_kinks(reference, at, data)):
            e = subjects[i].evidence
            if e is not None:
                accepted = (low - e.slack[k] <= e.given[k]) & (e.given[k] <= high + e.slack[k])
                at_kink = e.at_kink.copy()
                at_kink[k] = accepted & e.wrong[k]
                subjects[i] = subjects[i]._replace(evidence=e._replace(at_kink=at_kink))
    return subjects


def _look_by_differences(reference, subjects: list[Subject], chosen, data, rng) -> list[list[_Looked]]:
    """Slopes for each parameter: a few at the given point; and where the two gradients differ, until one refutes it."""
    host_data, mirror = on_host(data), bool(wants_symmetry(reference.program))
    leaves = [list(map(as_float64, jax.tree.leaves(params))) for params in chosen.params]
    structure = jax.tree.structure(chosen.params[0])
    held: dict[int, Any] = {}
    noise: dict[tuple[int, int], float] = {}

    def look(point: int, moved, hold: bool):
        values = held[point] if hold else reference.nothing_held
        return reference.look(jax.tree.unflatten(structure, moved), host_data, hold, values)

    def along(i: int, e: Evidence, direction: _Direction) -> _Looked:
        point, entries, disputed = direction
        here = leaves[point]
        if point not in held:
            held[point] = look(point, here, hold=False).held
        v = np.zeros(here[i].size)
        v[entries] = rng.choice([-1.0, 1.0], len(entries))
        if len(entries) > 1:  # else errors of equal size, as of two halves of a matrix, may cancel
            v[entries] *= rng.uniform(0.5, 1.0, len(entries))
        v = v.reshape(here[i].shape)
        v = v + v.swapaxes(-1, -2) if mirror and is_symmetric(here[i]) else v

        def at(t: float) -> differences.Seen:
            there = look(point, [*here[:i], here[i] + t * v, *here[i + 1 :]], hold=True)
            return differences.Seen(float(there.value), int(there.pattern))

        size = points.root_mean_square(here[i])
        if (point, i) not in noise:
            rounded = eps(reference.dtype) * abs(at(0.0).value)
            noise[point, i] = max(differences.noise_of(at, size), rounded)
        G, R = (float((v * g)[v != 0].sum()) for g in (e.given[point], e.right[point]))
        apart = abs(G - R) if np.isfinite(R) else np.inf
        slope = differences.slope(at, size, noise[point, i], G, all_kinks_seen=not opaque(reference.program))
        return _Looked(disputed, slope, float(e.slack[point] * np.abs(v).sum()), apart)

    found: list[list[_Looked]] = []
    for i, subject in enumerate(subjects):
        e = subject.evidence
        found.append([])
        if e is None or not e.right[0].size:
            continue
        for direction in _directions(e, rng):
            found[i].append(along(i, e, direction))
            if direction.disputed and not found[i][-1].agrees:
                break
    return found


def _directions(e: Evidence, rng) -> Iterator[_Direction]:
    """Two entries and all at once at the given point; where the two gradients differ the largest errors, then all of them."""
    entries = e.right[0].size
    some = {int(np.argmax(np.abs(e.right[0]))), int(rng.integers(entries))}
    yield from (_Direction(0, np.array([entry]), False) for entry in sorted(some))
    yield _Direction(0, np.arange(entries), False)
    wrong, error = (a.reshape(len(e.right), -1) for a in (e.wrong, e.error))
    disputed = [int(k) for k in np.flatnonzero(wrong.any(axis=1))]
    for k in {k for k in (0, e.worst_point) if k in disputed}:
        worst = np.argsort(-np.where(wrong[k], error[k], -1))[: min(CONFIRMED, int(wrong[k].sum()))]
        yield from (_Direction(k, np.array([entry]), True) for entry in worst)
    for k in disputed:
        yield _Direction(k, np.flatnonzero(wrong[k]), True)


# The verdict


def _judge(reference: Reference, subject: Subject, looked: list[_Looked], notes: list[str]) -> Row:
    """One parameter's row: the verdict, without a diagnosis yet where only numbers are wrong."""
    path, dtype, given, problem, right, e, _ = subject
    smooth, near, at = (sum(one.slope.kind == kind for one in looked) for kind in ("smooth", "near", "at"))
    kinks = Kinks(smooth, near, at + (int(e.at_kink.sum()) if e is not None else 0))
    if e is None:
        problem = problem or Diagnosis("shape", "given float64, it has another shape than the parameter")
        return Row(path, False, str(dtype), np.inf, kinks=kinks, diagnosis=problem)
    agree = all(one.agrees for one in looked)
    confirmed = subject.disputed and agree and any(one.disputed for one in looked)
    if confirmed:
        notes.append(f"jax.grad of the value is wrong for {path}: differences confirm the gradient under test")
    wrong = subject.disputed and not confirmed
    settled = e.at_kink | (e.wrong & confirmed)
    size = float(np.max(np.abs(right.at[0]), initial=0, where=np.isfinite(right.at[0])))
    error = np.where(settled[0], 0, np.abs(as_float64(given) - right.at[0]))
    allowed = _allowed(reference, subject)
    if problem is None and not wrong:
        if not agree:
            problem = Diagnosis("jax.grad", _refuted(reference))
        elif not np.all(error <= allowed):
            problem = _in_its_own_dtype(given, dtype)
    error64 = relative(max_each(np.where(settled, 0, e.error)), max_each(e.right))
    row = Row(
        path,
        not wrong and problem is None,
        str(dtype),
        float(np.max(error, initial=0)) / (size or 1),
        float(np.max(error64)),
        _by_differences(looked) / (size or 1),
        kinks=kinks,
        diagnosis=problem,
    )
    return row if row.ok else _located(row, subject, in_float64=wrong)


def _refuted(reference: Reference) -> str:
    """What to say where differences refute `jax.grad` of the value."""
    assumed = {SYMMETRIC.format(name) for name in wants_symmetry(reference.program)}
    assumed |= {ORDERED for step in reference.program.steps if step.name == "clamp"}
    why = "; ".join(sorted(assumed)) or "a custom rule or a stop_gradient in the value?"
    return f"jax.grad of the value says the same, differences do not: {why}"


def _allowed(reference: Reference, subject: Subject) -> float:
    """What arithmetic explains of the error at the given parameters, in their own dtype."""
    unit = SAFETY * eps(subject.dtype)
    explained = float(slack(reference, subject.right, str(subject.dtype))[0])
    return max(explained, unit * subject.right.moved, unit * subject.scatter)


def _by_differences(looked: list[_Looked]) -> float:
    """By how much differences miss the gradient; where they do not, how exact they are, or the slope if that is less."""
    undisputed = [one.slope for one in looked if not one.disputed]
    return max((max(s.difference, min(s.error, abs(s.given))) for s in undisputed), default=0.0)


def _located(row: Row, subject: Subject, in_float64: bool) -> Row:
    """Add where the largest error is, and the numbers there."""
    assert subject.evidence is not None
    e = subject.evidence
    if not in_float64:
        e = e._replace(
            given=as_float64(subject.given)[None], right=e.right[:1], slack=e.slack[:1], at_kink=e.at_kink[:1]
        )
    if not e.error.any():
        return row
    k = e.worst_point
    where = np.unravel_index(int(np.argmax(e.error[k])), e.error[k].shape)
    return row._replace(where=tuple(map(int, where)), given=float(e.given[k][where]), right=float(e.right[k][where]))


def _in_its_own_dtype(given, dtype) -> Diagnosis:
    bad = ~np.isfinite(as_float64(given))
    if bad.any():
        return Diagnosis(
            "not finite", f"right in float64, but in {dtype} {bad.sum()} of {bad.size} entries are not finite"
        )
    return Diagnosis("precision", f"right in float64, but in {dtype} it loses more than the arithmetic explains")


# The diagnosis


def _explained(reference: Reference, rows: list[Row], subjects: list[Subject], chosen, data) -> list[Row]:
    """Add a diagnosis to each wrong row that has none: read off it, or found among the mistakes made on purpose."""
    wrong = {
        i: s.evidence for i, (row, s) in enumerate(zip(rows, subjects, strict=True)) if not row.ok and not row.diagnosis
    }
    if not wrong:
        return rows
    evidence = [s.evidence for s in subjects if s.evidence is not None]
    sizes = tuple(sorted({n for leaf in jax.tree.leaves(data) for n in jnp.shape(leaf)}))
    about = diagnosis.About(points.batch_size(data), diagnosis.has_half(reference.program), sizes)
    at = [list(map(as_float64, jax.tree.leaves(params))) for params in chosen.params]
    said = {
        i: diagnosis.of_one(e, evidence, about, np.stack([leaves[i] for leaves in at]))
        for i, e in wrong.items()
        if e is not None
    }
    if len({one and one.text for one in said.values()}) > 1 or None in said.values():
        common = _made_on_purpose(reference, subjects, chosen, data) or _at_a_step(reference, subjects, chosen, data)
        if common is None and diagnosis.stale(evidence):
            common = Diagnosis(
                "stale", "it is the same whatever parameters it is given: were they captured, are they old?"
            )
        if common is not None:
            said = dict.fromkeys(said, common)
    return [
        row._replace(diagnosis=said[i] or diagnosis.unknown(subjects[i].evidence)) if i in said else row
        for i, row in enumerate(rows)
    ]


def _made_on_purpose(reference: Reference, subjects: list[Subject], chosen, data) -> Diagnosis | None:
    """The first mistake that, made in the value's own program, gives the gradient under test."""
    evidence = [s.evidence for s in subjects if s.evidence is not None]
    if len(evidence) < len(subjects) or not reference.reversible:
        return None
    wrong = {i for i, s in enumerate(subjects) if s.disputed}
    candidates = diagnosis.mistakes(reference.with_rules, [s.name for s in subjects], wrong)
    candidates, telling = itertools.islice(candidates, TRIED), _telling(evidence)
    at = {k: jax.tree.leaves(on_host(chosen.params[k])) for k in telling}
    data_leaves = jax.tree.leaves(on_host(data))
    while some := list(itertools.islice(candidates, TOGETHER)):
        mistaken = jax.jit(jax.grad(diagnosis.with_mistakes(reference.with_rules, some), argnums=1))

        def explains(theta, mistaken=mistaken) -> bool:
            made = (mistaken(theta, at[k], data_leaves) for k in telling)
            return all(
                e.equals(np.asarray(g)[None], at=[k])
                for k, leaves in zip(telling, made, strict=True)
                for e, g in zip(evidence, leaves, strict=True)
            )

        for mistake, theta in zip(some, np.eye(len(some)), strict=True):
            if explains(theta):
                return Diagnosis(mistake.kind, mistake.text)
    return None


def _at_a_step(reference: Reference, subjects: list[Subject], chosen, data) -> Diagnosis | None:
    """The mistake at one step of the program that gives the gradient under test: one without a factor, if there is one."""
    evidence = [s.evidence for s in subjects if s.evidence is not None]
    if len(evidence) < len(subjects):
        return None
    telling = _telling(evidence)
    at = {k: jax.tree.leaves(on_host(chosen.params[k])) for k in telling}
    data_leaves, worst = jax.tree.leaves(on_host(data)), telling[0]
    sizes = [float(max_each(e.right).max()) or 1.0 for e in evidence]
    error = [e.given[worst] - e.right[worst] for e in evidence]
    found: list[tuple[float, str, str]] = []
    for group, gradient in terms.compiled(reference.program):
        for change, switch in zip(group, np.eye(len(group)), strict=True):

            def made(k, theta, switch=switch, gradient=gradient):
                there = zip(gradient(switch, at[k], data_leaves), evidence, strict=True)
                return [e.right[k] + theta * (np.asarray(g) - e.right[k]) for g, e in there]

            moved = [m - e.right[worst] for m, e in zip(made(worst, 1.0), evidence, strict=True)]
            theta = terms.factor_of(error, moved, sizes)
            theta = 1.0 if abs(theta - 1) < 1e-4 or not change.scales else theta
            if theta and all(
                e.equals(m[None], at=[k]) for k in telling for e, m in zip(evidence, made(k, theta), strict=True)
            ):
                found.append((abs(theta - 1), change.kind, terms.named(change.said(theta), [s.name for s in subjects])))
    if not found:
        return None
    theta, kind, text = min(found, key=lambda one: one[0])
    return Diagnosis(kind if not theta else "factor", text)


def _telling(evidence: list[Evidence]) -> list[int]:
    """The points where the error is largest, the worst first."""
    size = sum(relative(max_each(np.where(e.wrong, e.error, 0)), max_each(e.right)) for e in evidence)
    return [int(k) for k in np.argsort(-size, kind="stable")[:TELLING]]


def _by_example(reference, tested: Tested, rows: list[Row], subjects: list[Subject], chosen, data) -> list[Row]:
    """Add to each wrong row which examples, when a batch holds nothing else, have a wrong gradient."""
    batch, evidence = points.batch_size(data), [s.evidence for s in subjects if s.evidence is not None]
    wrong = [i for i, s in enumerate(subjects) if s.disputed and not rows[i].ok]
    if not batch or batch < 2 or not wrong or len(evidence) < len(subjects):
        return rows
    k, bad = _telling(evidence)[0], {i: [] for i in wrong}
    for b in range(min(batch, EXAMPLES)):
        # a batch of that example alone, of the same length: nothing is compiled again
        one = jax.tree.map(lambda leaf, b=b: leaf[np.full(batch, b)] if jnp.ndim(leaf) else leaf, data)
        G = tested.leaves_at(chosen.params[k], one)
        R = jax.tree.leaves(reference.value_and_grad(on_host(chosen.params[k]), *on_host(one))[1])
        for i in wrong:
            g, r = as_float64(G[i]), as_float64(R[i])
            scale = max(float(np.max(np.abs(r), initial=0)), 1e6 * float(evidence[i].slack[k]))
            if not np.max(np.abs(g - r), initial=0) <= 1e-6 * scale:
                bad[i].append(b)
    return [row._replace(examples=tuple(bad[i])) if i in bad else row for i, row in enumerate(rows)]
