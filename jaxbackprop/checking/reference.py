"""The right gradient, and what is known of the value alone: compiled once for each value and shape, and kept.

The yardstick is `jax.grad` in float64. How much of a gradient rounding destroys is measured, not guessed: where it cancels to
almost nothing, its own size says little.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking import diagnosis, points
from jaxbackprop.checking.leaves import eps, max_each, names, narrowed, on_host
from jaxbackprop.checking.program import PLAIN_CALLS, Program, flatten, longest_sum

SAFETY = 16  # one sample of a rounding error says its size only roughly
DRAWS = 4  # of parameters that differ by rounding alone


class Reference(NamedTuple):
    """What is made from a value.

    Attributes:
        program: its flat program, in float64.
        terms: of the longest sum in it.
        grad: its compiled `jax.grad`, (params, *data), in the dtype of its arguments.
        forward: its compiled `jax.jvp`, (params, data, direction).
        look: its value and sides, compiled.
        mistakes: the familiar ones that can be made in it.
        mistaken: (θ, parameter leaves, data leaves) → the gradient with mistakes switched on by θ.
    """

    program: Program
    terms: int
    grad: Callable
    forward: Callable
    look: Callable
    mistakes: list[diagnosis.Mistake]
    mistaken: Callable


def reference_of(value: Callable, params, data) -> Reference:
    """Make the reference, or find it again: one that was used before costs no compilation."""
    try:
        hash(value)
    except TypeError:  # an instance that can be called, say
        return _reference.__wrapped__(value, _signature(params), _signature(data))
    return _reference(value, _signature(params), _signature(data))


@lru_cache(maxsize=16)
def _reference(value, params_signature, data_signature) -> Reference:
    params, data = (jax.tree.map(_widened_shape, _shapes(s)) for s in (params_signature, data_signature))
    program = _flat(value, params, data)
    with_rules = flatten(value, params, *data, inlined=PLAIN_CALLS)
    mistakes = diagnosis.mistakes(with_rules, names(params))
    return Reference(
        program,
        longest_sum(program),
        jax.jit(jax.grad(value)),
        jax.jit(lambda params, data, v: jax.jvp(lambda p: value(p, *data), (params,), (v,))[1]),
        jax.jit(partial(points.look, program, points.batch_size(data))),
        mistakes,
        jax.jit(jax.grad(diagnosis.with_mistakes(with_rules, mistakes), argnums=1)),
    )


def _flat(value, params, data) -> Program:
    try:
        return flatten(value, params, *data)
    except Exception as error:  # anyone's code
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(
            f"value does not run in float64 ({why}): let its dtypes follow those of its arguments"
        ) from error


class Right(NamedTuple):
    """One parameter's right gradient.

    Attributes:
        at: in float64, (points, …).
        lost: what rounding destroys at each point, in units of eps: how far float32 is from float64.
        moved: how far a change of the parameters by a few eps moves it at the given point, in units of eps: kinks included.
    """

    at: np.ndarray
    lost: np.ndarray
    moved: float


def right_gradients(reference: Reference, at: list[Any], data, rng: np.random.Generator) -> list[Right]:
    """`jax.grad` at each point, and how much rounding it bears."""
    wide_data = on_host(data)
    wide = _stacked(reference.grad(on_host(params), *wide_data) for params in at)
    with jax.enable_x64(False):
        data32 = narrowed(data)
        narrow = _stacked(reference.grad(narrowed(params), *data32) for params in at)
    moved = _moved_by_rounding(reference, at[0], wide_data, [r[0] for r in wide], rng)
    with np.errstate(invalid="ignore"):
        lost = [max_each(r32 - r64) / eps("float32") for r32, r64 in zip(narrow, wide, strict=True)]
    return [Right(r, np.where(np.isfinite(e), e, 0), m) for r, e, m in zip(wide, lost, moved, strict=True)]


def slack(reference: Reference, right: Right) -> np.ndarray:
    """What rounding explains at each point, in units of eps: 16 √n |R| + 16 ρ."""
    known = np.where(np.isfinite(right.at), right.at, 0)
    return SAFETY * (np.sqrt(reference.terms) * max_each(known) + right.lost)


def forward_mode(reference: Reference, params, data, right: list[Right], rng: np.random.Generator) -> list[str]:
    """A note where `jax.jvp` of the value and `jax.grad` disagree; none where there is no forward mode."""
    leaves, structure = jax.tree.flatten(params)
    v = [rng.choice([-1.0, 1.0], leaf.shape) for leaf in leaves]
    try:
        ahead = float(reference.forward(on_host(params), on_host(data), jax.tree.unflatten(structure, v)))
    except TypeError:  # a custom_vjp has no forward mode
        return []
    back = sum(float(np.sum(r.at[0] * w)) for r, w in zip(right, v, strict=True))
    allowed = eps("float64") * sum(float(slack(reference, r)[0]) * r.at[0].size for r in right)
    if abs(ahead - back) <= allowed or not np.isfinite(back):
        return []
    return [f"of the value itself, along a direction: {ahead:.9g} by jax.jvp, {back:.9g} by jax.grad; a custom rule?"]


def _stacked(trees) -> list[np.ndarray]:
    leaves = zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)
    return [np.stack([np.asarray(a, np.float64) for a in leaf]) for leaf in leaves]


def _moved_by_rounding(reference, params, wide_data, right, rng) -> list[float]:
    leaves, structure = jax.tree.flatten(params)
    moved = [0.0] * len(leaves)
    for _ in range(DRAWS):
        at = [
            np.asarray(leaf, np.float64) * (1 + 4 * eps(leaf.dtype) * rng.uniform(-1, 1, leaf.shape)) for leaf in leaves
        ]
        there = jax.tree.leaves(reference.grad(jax.tree.unflatten(structure, at), *wide_data))
        moved = [
            max(m, float(np.max(np.abs(np.asarray(t) - r), initial=0)) / eps(leaf.dtype))
            for m, t, r, leaf in zip(moved, there, right, leaves, strict=True)
        ]
    return moved


class _Signature(NamedTuple):
    structure: Any
    leaves: tuple


def _signature(tree) -> _Signature:
    leaves, structure = jax.tree.flatten(tree)
    return _Signature(structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))


def _shapes(signature: _Signature):
    return jax.tree.unflatten(signature.structure, [jax.ShapeDtypeStruct(*leaf) for leaf in signature.leaves])


def _widened_shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
