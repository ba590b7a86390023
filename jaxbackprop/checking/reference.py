"""The right gradient, and what is known of the value alone: compiled once for each value and shape, and kept.

The yardstick is `jax.grad` in float64. How much of a gradient rounding destroys is measured, not guessed: where it cancels to
almost nothing, its own size says little.
"""

import hashlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking import points
from jaxbackprop.checking.closures import with_arrays_widened
from jaxbackprop.checking.decisions import stopped, ties, with_ties_broken
from jaxbackprop.checking.leaves import eps, max_each, narrowed, on_host, one_line
from jaxbackprop.checking.rounding import longest_sum, narrowest, scattered
from jaxbackprop.programs.flat import CALLS, CUSTOM_VJP, RULELESS, SCAN, Program, as_function, flatten, traced
from jaxbackprop.programs.loops import bounded, has_loops

SAFETY = 16  # one sample of a rounding error says its size only roughly
MOST_EXPLAINED = 0.05  # of a gradient's largest entry that the length of the sums may explain, in whatever dtype
ROUNDED = 4  # draws of parameters that differ by rounding alone
LOOP_STEPS = 10_000  # where the values decide how many: a loop that wants more has not settled
RANDOM = ("random_", "threefry", "rng_")
CHOICES = 4  # decisions on their kinks whose sides are combined in every way


class Reference(NamedTuple):
    """What is made from a value.

    Attributes:
        program: its flat program, given float64, short loops step after step.
        with_rules: the same with custom_jvp calls left in.
        terms: of the longest sum in it.
        dtype: the narrowest that it computes in, given float64.
        value_and_grad: compiled, (params, *data), given float64.
        further: the same, with a step more of each loop that converges; None where there are no loops.
        narrow_value_and_grad: the same, given float32, with 64-bit types off.
        forward: its compiled `jax.jvp`, (params, data, direction).
        look: its value and sides, compiled, (params, data, hold, held).
        nothing_held: what `look` takes for `held` where it holds nothing.
        reversible: whether reverse mode goes through it; else its gradient is by forward mode.
        one_sided: (signs, parameter leaves, data leaves) → the gradient with every tie broken by its sign.
    """

    program: Program
    with_rules: Program
    terms: int
    dtype: str
    value_and_grad: Callable
    further: Callable | None
    narrow_value_and_grad: Callable
    forward: Callable
    look: Callable
    nothing_held: list[np.ndarray]
    reversible: bool
    one_sided: Callable


# the last one of each function, for as long as that lives
_KNOWN: WeakKeyDictionary[Callable, tuple[Any, Reference]] = WeakKeyDictionary()


def reference_of(value: Callable, params, data, owner: Callable) -> Reference:
    """Make the reference, or find it again: one that was used before costs no compilation.

    It is the same one when it was made for the same owner, the user's function in `value`, and still traces to the same
    program, with the same constants.
    """
    shapes = [jax.tree.map(_widened_shape, tree) for tree in (params, data)]
    wide, closed = _traced_wide(value, *shapes)
    constants = tuple(map(_digest, closed.consts))
    key = jax.tree.structure(params), jax.tree.structure(data), str(closed.jaxpr), constants
    del closed  # and with it the arrays that it holds: see `traced`
    try:
        known = _KNOWN.get(owner)
    except TypeError:  # what has no hash, or cannot be referred to weakly, is not kept
        return _reference(wide, value, *shapes)
    if known is None or known[0] != key:
        known = key, _reference(wide, value, *shapes)
        _KNOWN[owner] = known
    return known[1]


def _traced_wide(value: Callable, params, data) -> tuple[Callable, Any]:
    """The value as it runs in float64, with its own arrays widened where it must be, and its jaxpr."""
    try:
        return value, traced(value, params, *data)[0]
    except Exception as error:  # anyone's code
        try:
            wide = with_arrays_widened(value)
            return wide, traced(wide, params, *data)[0]
        except Exception:
            said = f"value does not run in float64 ({one_line(error)}): let its dtypes follow those of its arguments"
            raise ValueError(said) from error


def _reference(value, given, params, data) -> Reference:
    program = flatten(value, params, *data, inlined=(*CALLS, SCAN))
    exact = as_function(flatten(value, params, *data, inlined=RULELESS))
    with jax.enable_x64(False):
        narrow = as_function(flatten(given, *jax.tree.map(_narrowed_shape, (params, *data)), inlined=RULELESS))
    held = [program.shapes[step.writes[0]] for step in stopped(program)]
    loops = has_loops(program)

    def ended(function, more=0):
        return bounded(function, LOOP_STEPS, more) if loops else function

    reversible = _differentiates(jax.grad, exact, params, data) is None
    slopes = jax.value_and_grad if reversible else _forward_slopes
    if not reversible and (said := _differentiates(jax.jacfwd, exact, params, data)):
        raise ValueError(
            f"JAX cannot differentiate the value ({said}): give check_vjp a reference, the same in plain JAX"
        )
    return Reference(
        program,
        flatten(value, params, *data, inlined=(*RULELESS, CUSTOM_VJP, SCAN)),
        longest_sum(program),
        narrowest(program),
        jax.jit(ended(slopes(exact))),
        jax.jit(ended(slopes(exact), more=1)) if loops else None,
        jax.jit(ended(slopes(narrow))),
        jax.jit(lambda params, data, v: jax.jvp(lambda p: exact(p, *data), (params,), (v,))[1]),
        jax.jit(ended(partial(points.look, program, points.batch_size(data)))),
        [np.zeros(shape.shape, shape.dtype) for shape in held],
        reversible,
        jax.jit(jax.grad(with_ties_broken(program), argnums=1)),
    )


def _differentiates(how: Callable, function: Callable, params, data) -> str | None:
    """None where JAX differentiates a function so, else why not: a `while` loop has no reverse mode, a kernel may have none."""
    try:
        jax.eval_shape(how(function), params, *data)
    except Exception as error:  # in the ways of many primitives
        return one_line(error)
    return None


def _forward_slopes(function: Callable) -> Callable:
    """`jax.value_and_grad` by forward mode, which goes through loops of any length."""
    return lambda params, *data: (function(params, *data), jax.jacfwd(function)(params, *data))


def _digest(constant) -> Any:
    if hasattr(constant, "dtype") and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    return hashlib.sha256(np.asarray(constant).tobytes()).digest()


class Right(NamedTuple):
    """One parameter's right gradient.

    Attributes:
        at: in float64, (points, …).
        lost: what rounding destroys at each point, in units of eps: how far float32 is from float64.
        moved: how far a change of the parameters by a few eps moves it at the given point, in units of eps: kinks included.
        unsettled: how far one more step of the loops that converge moves it at each point.
    """

    at: np.ndarray
    lost: np.ndarray
    moved: float
    unsettled: np.ndarray


def right_gradients(reference: Reference, at: list[Any], data, rng: np.random.Generator) -> list[Right]:
    """`jax.grad` at each point, and how much rounding it bears.

    Raises:
        ValueError: in float32 the value is another function than in float64.
    """
    wide_data = on_host(data)
    wide = [reference.value_and_grad(on_host(params), *wide_data) for params in at]
    with jax.enable_x64(False):
        data32 = narrowed(data)
        narrow = [reference.narrow_value_and_grad(narrowed(params), *data32) for params in at]
    if any(step.name.startswith(RANDOM) for step in reference.program.steps):
        _require_one_function(wide[0], narrow[0])
    stacked, stacked32 = _stacked(g for _, g in wide), _stacked(g for _, g in narrow)
    moved = _moved_by_rounding(reference, at[0], wide_data, [r[0] for r in stacked], rng)
    with np.errstate(invalid="ignore"):
        lost = [max_each(r32 - r64) / eps("float32") for r32, r64 in zip(stacked32, stacked, strict=True)]
    unsettled = [np.zeros(len(at)) for _ in stacked]
    if reference.further is not None:
        further = _stacked(reference.further(on_host(params), *wide_data)[1] for params in at)
        unsettled = [_unsettled(f, r) for f, r in zip(further, stacked, strict=True)]
    return [
        Right(r, np.where(np.isfinite(e), e, 0), m, u)
        for r, e, m, u in zip(stacked, lost, moved, unsettled, strict=True)
    ]


def _unsettled(further: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By how much a step more moves a gradient; 0 where that is no matter of converging, but makes another one."""
    by = max_each(further - right)
    return np.where(by <= MOST_EXPLAINED * max_each(right), by, 0)


def _require_one_function(wide, narrow) -> None:
    """Refuse a value that draws other random numbers in float64."""
    (value64, grads64), (value32, grads32) = jax.device_get((wide, narrow))
    apart = [
        np.abs(a.astype(np.float64) - b).max(initial=0)
        for a, b in zip(*map(jax.tree.leaves, (grads32, grads64)), strict=True)
    ]
    sizes = [np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(grads64)]
    if abs(float(value32) - float(value64)) > 0.01 * abs(float(value64)) and max(apart) > 0.1 * max(sizes) > 0:
        raise ValueError(
            f"value is {float(value32):.6g} in float32 and {float(value64):.6g} in float64, at the same parameters and data: "
            "it draws random numbers inside, other ones for each dtype: draw them outside, and pass them as data"
        )


def slack(reference: Reference, right: Right, dtype: str) -> np.ndarray:
    """What rounding explains at each point, for a gradient computed in `dtype`: eps (16 √n |R| + 16 ρ)."""
    e = max(eps(dtype), eps(reference.dtype))
    known = np.where(np.isfinite(right.at), right.at, 0)
    return min(e * SAFETY * np.sqrt(reference.terms), MOST_EXPLAINED) * max_each(known) + SAFETY * (
        e * right.lost + right.unsettled
    )


def between_kinks(reference: Reference, params, data) -> list[tuple[np.ndarray, np.ndarray]]:
    """The smallest and the largest entries of the gradient over the choices of a side at each decision that is tied.

    By the chain rule a gradient is linear in each choice: whatever is chosen, 0, 1 or ½, it lies between these.
    """
    count = len(ties(reference.program))
    if count <= CHOICES:
        choices = list(itertools.product([-1.0, 1.0], repeat=count))
    else:
        choices = [sign * (1 - 2 * np.eye(count)[i]) for i in range(count) for sign in (-1, 1)]
        choices += [-np.ones(count), np.ones(count)]
    leaves, data_leaves = (jax.tree.leaves(on_host(tree)) for tree in (params, data))
    grads = [reference.one_sided(np.array(choice), leaves, data_leaves) for choice in choices]
    return [
        (g.min(axis=0), g.max(axis=0))
        for g in (np.stack([np.asarray(g) for g in leaf]) for leaf in zip(*grads, strict=True))
    ]


def forward_mode(reference: Reference, params, data, right: list[Right], rng: np.random.Generator) -> list[str]:
    """A note where `jax.jvp` of the value and `jax.grad` disagree along ±1; none where there is no forward mode."""
    params, data = on_host(params), on_host(data)
    v = jax.tree.map(lambda leaf: rng.choice([-1.0, 1.0], leaf.shape), params)

    def ahead(params, *data):
        return reference.forward(params, data, v)

    def back(params, *data):
        grads = reference.value_and_grad(params, *data)[1]
        return sum(jnp.sum(g * w) for g, w in zip(jax.tree.leaves(grads), jax.tree.leaves(v), strict=True))

    try:
        by_jvp, by_grad = float(ahead(params, *data)), float(back(params, *data))
    except TypeError:  # a custom_vjp has no forward mode
        return []
    apart = abs(by_jvp - by_grad)
    if apart <= sum(float(slack(reference, r, "float64")[0]) * r.at[0].size for r in right) or not np.isfinite(by_grad):
        return []
    if apart <= SAFETY * sum(_moved_inside(function, params, data, rng) for function in (ahead, back)):
        return []
    return [
        f"of the value itself, along a direction: {by_jvp:.9g} by jax.jvp, {by_grad:.9g} by jax.grad; a custom rule?"
    ]


def _moved_inside(function: Callable, params, data, rng: np.random.Generator) -> float:
    """How far rounding inside a function of numbers moves what it returns."""
    outs = scattered(flatten(function, params, *data), jax.tree.leaves((params, data)), rng)
    return float(np.ptp([float(out) for (out,) in outs]))


def _stacked(trees) -> list[np.ndarray]:
    leaves = zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)
    return [np.stack([np.asarray(a, np.float64) for a in leaf]) for leaf in leaves]


def _moved_by_rounding(reference, params, wide_data, right, rng) -> list[float]:
    leaves, structure = jax.tree.flatten(params)
    moved = [0.0] * len(leaves)
    for _ in range(ROUNDED):
        at = [
            np.asarray(leaf, np.float64) * (1 + 4 * eps(leaf.dtype) * rng.uniform(-1, 1, leaf.shape)) for leaf in leaves
        ]
        there = jax.tree.leaves(reference.value_and_grad(jax.tree.unflatten(structure, at), *wide_data)[1])
        moved = [
            max(m, float(np.max(np.abs(np.asarray(t) - r), initial=0)) / eps(leaf.dtype))
            for m, t, r, leaf in zip(moved, there, right, leaves, strict=True)
        ]
    return moved


def _widened_shape(leaf):
    dtype = jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float64 if jnp.issubdtype(dtype, jnp.floating) else dtype)


def _narrowed_shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
