"""Where a wrong gradient comes from: read off it, or found among the mistakes made on purpose, and at which examples."""

import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking import diagnosis, layers, points, steps
from jaxbackprop.checking.comparison import Comparison
from jaxbackprop.checking.diagnosis import Diagnosis
from jaxbackprop.checking.leaves import as_float64, max_each, on_host, relative
from jaxbackprop.checking.mistakes import TOGETHER, Mistake, in_groups
from jaxbackprop.checking.report import Row
from jaxbackprop.programs.flat import Program

TRIED = 256  # mistakes over layers, or at any step, at most
COMPILED_STEPS = 4000  # of the latter, all together, at about one millisecond each: of a long program fewer are tried
TELLING = 3  # points that a mistake made on purpose must explain
EXAMPLES = 32  # looked at one by one, at most
NEAR_ONE = 1e-4  # a factor that is no further off is 1

Groups = Iterable[tuple[list[Mistake], Callable]]


def explained(seen: Comparison, rows: list[Row]) -> list[Row]:
    """Add a diagnosis to each wrong row that has none."""
    subjects, evidence = seen.subjects, seen.evidence
    sizes = tuple(sorted({n for leaf in jax.tree.leaves(seen.data) for n in jnp.shape(leaf)}))
    about = diagnosis.About(points.batch_size(seen.data), diagnosis.has_half(seen.reference.program), sizes)
    wrong = {i: subjects[i].evidence for i, row in enumerate(rows) if not row.ok and not row.diagnosis}
    at = [seen.leaves(k) for k in range(len(seen.at.params))] if wrong else []
    said = {
        i: diagnosis.of_one(e, evidence, about, np.stack([leaves[i] for leaves in at]))
        for i, e in wrong.items()
        if e is not None
    }
    if len({one and one.text for one in said.values()}) > 1 or None in said.values():
        common = _made_on_purpose(seen) or diagnosis.stale(evidence)
        said = dict.fromkeys(said, common) if common else said
    return [
        row._replace(diagnosis=said[i] or diagnosis.unknown(wrong[i])) if i in said else row
        for i, row in enumerate(rows)
    ]


def _made_on_purpose(seen: Comparison) -> Diagnosis | None:
    """The mistake, over layers or else at any step, that gives the gradient under test."""
    reference, evidence = seen.reference, seen.evidence
    if len(evidence) < len(seen.subjects):
        return None
    wrong = {i for i, s in enumerate(seen.subjects) if s.disputed}
    over_layers = itertools.islice(layers.mistakes(reference.with_rules, wrong), TRIED if reference.reversible else 0)
    return _first(seen, in_groups(reference.with_rules, over_layers)) or _first(seen, _at_steps(reference.program))


@lru_cache(maxsize=16)
def _at_steps(program: Program) -> list[tuple[list[Mistake], Callable]]:
    """The mistakes at any step, compiled, kept for the next gradient of the same value."""
    most = min(TRIED, TOGETHER * max(1, COMPILED_STEPS // len(program.steps)))
    return list(in_groups(program, itertools.islice(steps.mistakes(program), most)))


def _first(seen: Comparison, groups: Groups) -> Diagnosis | None:
    """The first mistake that, made once, gives the gradient under test in every parameter; else the one nearest to once."""
    evidence, telling, data = seen.evidence, _telling(seen), jax.tree.leaves(on_host(seen.data))
    at, worst = {k: seen.leaves(k) for k in telling}, telling[0]
    error = [e.given[worst] - e.right[worst] for e in evidence]
    nearest: tuple[float, Mistake] | None = None

    def moved(gradient, switch, k: int) -> list[np.ndarray]:
        grads = gradient(switch, at[k], data)
        return [np.asarray(g) - e.right[k] for g, e in zip(grads, evidence, strict=True)]

    def explains(theta: float, moved: Callable[[int], list[np.ndarray]]) -> bool:
        made = ((k, e, e.right[k] + theta * d) for k in telling for e, d in zip(evidence, moved(k), strict=True))
        return all(e.equals(g[None], at=[k]) for k, e, g in made)

    for mistakes, gradient in groups:
        for mistake, switch in zip(mistakes, np.eye(len(mistakes)), strict=True):
            by = partial(moved, gradient, switch)
            theta = _times(error, by(worst), evidence) if mistake.scales else 1.0
            if theta and explains(theta, by) and (nearest is None or abs(theta - 1) < abs(nearest[0] - 1)):
                nearest = theta, mistake
        if nearest and nearest[0] == 1:
            break  # the next group need not be compiled
    if nearest is None:
        return None
    theta, mistake = nearest
    return Diagnosis(mistake.kind if theta == 1 else "factor", mistake.said(theta, [e.name for e in evidence]))


def _times(error: list[np.ndarray], moved: list[np.ndarray], evidence) -> float:
    """How many times a mistake must be made to explain an error, each parameter's in units of its own size; 0: it cannot."""
    sizes = [float(max_each(e.right).max()) or 1.0 for e in evidence]
    product = sum(float(np.sum(e * d)) / s**2 for e, d, s in zip(error, moved, sizes, strict=True))
    square = sum(float(np.sum(d * d)) / s**2 for d, s in zip(moved, sizes, strict=True))
    theta = product / square if square > 0 and np.isfinite(product) else 0.0
    return 1.0 if abs(theta - 1) < NEAR_ONE else theta


def _telling(seen: Comparison) -> list[int]:
    """The points where the error is largest, the worst first."""
    size = sum(relative(max_each(np.where(e.wrong, e.error, 0)), max_each(e.right)) for e in seen.evidence)
    return [int(k) for k in np.argsort(-size, kind="stable")[:TELLING]]


def with_examples(seen: Comparison, rows: list[Row]) -> list[Row]:
    """Add to each wrong row which examples, when a batch holds nothing else, have a wrong gradient."""
    batch, evidence = points.batch_size(seen.data), seen.evidence
    wrong = [i for i, s in enumerate(seen.subjects) if s.disputed and not rows[i].ok]
    if not batch or batch < 2 or not wrong or len(evidence) < len(rows):
        return rows
    k = _telling(seen)[0]
    bad = {
        b: _wrong_alone(seen, k, b, [1e6 * float(e.slack[k]) for e in evidence]) for b in range(min(batch, EXAMPLES))
    }
    return [
        row._replace(examples=tuple(b for b in bad if i in bad[b])) if i in wrong else row for i, row in enumerate(rows)
    ]


def _wrong_alone(seen: Comparison, k: int, b: int, least: list[float]) -> list[int]:
    """The parameters whose gradient of one example is wrong, in units of its size or of `least`."""
    # a batch of that example alone, of the same length: nothing is compiled again
    one = jax.tree.map(lambda leaf: leaf[np.full(len(leaf), b)] if jnp.ndim(leaf) else leaf, seen.data)
    given = seen.tested.leaves_at(seen.at.params[k], one)
    right = jax.tree.leaves(seen.reference.value_and_grad(on_host(seen.at.params[k]), *on_host(one))[1])
    pairs = [(as_float64(g), as_float64(r)) for g, r in zip(given, right, strict=True)]
    apart = [(np.max(np.abs(g - r), initial=0), np.max(np.abs(r), initial=0)) for g, r in pairs]
    return [i for i, (error, size) in enumerate(apart) if not error <= 1e-6 * max(size, least[i])]
