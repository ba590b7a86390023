"""The verdict on each parameter, from both gradients and what differences say, and the report over all."""

import numpy as np

from jaxbackprop.checking import causes, disputes
from jaxbackprop.checking.comparison import Subject, allowed, compared, never_seen
from jaxbackprop.checking.decisions import opaque, wants_symmetry
from jaxbackprop.checking.diagnosis import Diagnosis
from jaxbackprop.checking.disputes import Looked
from jaxbackprop.checking.leaves import as_float64, max_each, relative
from jaxbackprop.checking.reference import Reference, forward_mode
from jaxbackprop.checking.report import Kinks, Report, Row
from jaxbackprop.checking.tested import Tested

SYMMETRIC = "JAX's rule for {} is that of symmetric matrices: give it (A + Aᵀ) / 2"
ORDERED = "JAX's rule for lax.clamp is that of bounds in order, min ≤ max: jnp.clip has one for all"


def verdict(reference: Reference, tested: Tested, params, data, given, rng: np.random.Generator) -> Report:
    """Judge a gradient by the reference; `given`: what it returned, by name. Runs with 64-bit types on."""
    seen = compared(reference, tested, params, data, given, rng)
    looked = disputes.look(seen, rng)
    rows = [_row(reference, subject, some) for subject, some in zip(seen.subjects, looked, strict=True)]
    rows = causes.with_examples(seen, causes.explained(seen, rows))
    hidden = opaque(reference.program)
    notes = [
        *seen.notes,
        *(_confirmed(s) for s, some in zip(seen.subjects, looked, strict=True) if disputes.confirmed(s, some)),
        *_inside(reference, hidden),
        never_seen(seen),
        *forward_mode(reference, params, data, [s.right for s in seen.subjects], rng),
    ]
    said = tuple(dict.fromkeys(filter(None, notes)))
    return Report(tuple(rows), len(seen.at.params), seen.at.units, seen.at.both_sides, said, hidden)


def _confirmed(subject: Subject) -> str:
    return f"jax.grad of the value is wrong for {subject.name}: differences confirm the gradient under test"


def _inside(reference: Reference, hidden: tuple[str, ...]) -> list[str]:
    """Of the value's inside: its precision, and what cannot be seen."""
    precision = f"the value computes in {reference.dtype} inside, whatever it is given: judged by that precision"
    kinks = f"cannot look into {', '.join(hidden)}: kinks and decisions in there are not seen"
    return ([precision] if reference.dtype != "float64" else []) + ([kinks] if hidden else [])


def _row(reference: Reference, subject: Subject, looked: list[Looked]) -> Row:
    """One parameter's row: the verdict, without a diagnosis yet where only numbers are wrong."""
    path, dtype, given, problem, right, e, _ = subject
    kinds = [one.slope.kind for one in looked]
    kinks = Kinks(kinds.count("smooth"), kinds.count("near"), kinds.count("at"))
    if e is None:
        problem = problem or Diagnosis("shape", "given float64, it has another shape than the parameter")
        return Row(path, False, str(dtype), np.inf, kinks=kinks, diagnosis=problem)
    confirmed = disputes.confirmed(subject, looked)
    wrong = subject.disputed and not confirmed
    settled = e.at_kink | (e.wrong & confirmed)
    size = float(np.max(np.abs(right.at[0]), initial=0, where=np.isfinite(right.at[0])))
    error = np.where(settled[0], 0, np.abs(as_float64(given) - right.at[0]))
    if problem is None and not wrong:
        if not all(one.agrees for one in looked):
            problem = Diagnosis("jax.grad", _refuted(reference))
        elif not np.all(error <= allowed(reference, subject)):
            problem = _in_its_own_dtype(given, dtype)
    row = Row(
        path,
        not wrong and problem is None,
        str(dtype),
        float(np.max(error, initial=0)) / (size or 1),
        float(np.max(relative(max_each(np.where(settled, 0, e.error)), max_each(e.right)))),
        _by_differences(looked) / (size or 1),
        kinks=kinks._replace(at=kinks.at + int(e.at_kink.sum())),
        diagnosis=problem,
    )
    return row if row.ok else _located(row, subject, in_float64=wrong)


def _refuted(reference: Reference) -> str:
    """What to say where differences refute `jax.grad` of the value."""
    assumed = {SYMMETRIC.format(name) for name in wants_symmetry(reference.program)}
    assumed |= {ORDERED for step in reference.program.steps if step.name == "clamp"}
    why = "; ".join(sorted(assumed)) or "a custom rule or a stop_gradient in the value?"
    return f"jax.grad of the value says the same, differences do not: {why}"


def _by_differences(looked: list[Looked]) -> float:
    """By how much differences miss the gradient; where they do not, how exact they are, or the slope if that is less."""
    undisputed = [one.slope for one in looked if not one.disputed]
    return max((max(s.difference, min(s.error, abs(s.given))) for s in undisputed), default=0.0)


def _located(row: Row, subject: Subject, in_float64: bool) -> Row:
    """Add where the largest error is, and the numbers there."""
    assert subject.evidence is not None
    e = subject.evidence
    if not in_float64:
        at_first = {name: getattr(e, name)[:1] for name in ("right", "slack", "at_kink")}
        e = e._replace(given=as_float64(subject.given)[None], **at_first)
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
