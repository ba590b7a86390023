"""`factored(loss)`: one sweep, many readouts, for any JAX loss of one example."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.model import Sweep
from jaxbackprop.programs.axes import of_leaf
from jaxbackprop.programs.flat import flat
from jaxbackprop.programs.taps import differentiated, gathered
from jaxbackprop.programs.uses import ELEMENTWISE, Plan, planned
from jaxbackprop.refusals import are_floating
from jaxbackprop.words import REAL, fits, paths_of, unused


class AnyLoss(NamedTuple):
    """What `factored` was given: all that is static in the sweep of a loss. in_axes are leaves with their structure."""

    loss: Callable
    argnums: int | tuple[int, ...]
    in_axes: tuple[tuple[int | None, ...], Any]
    has_aux: bool
    on_fallback: str


FALLBACKS = ("local", "warn", "error")


def factored(
    loss: Callable,
    argnums: int | tuple[int, ...] = 0,
    in_axes: Any = 0,
    has_aux: bool = False,
    on_fallback: str = "local",
) -> Sweep:
    """Return a function that computes every example's loss and, factored, every example's gradient, of any JAX model.

    What `jax.vmap(jax.grad(loss), …)` computes, without forming it: the loss is traced for one example, each parameter is
    followed to the steps where it enters, and one backward sweep leaves dz = dL/dz beside h wherever z = W h. Whatever the loss
    does in between (loops, branches, custom derivatives) is JAX's own. A parameter that enters otherwise has its gradients
    formed, exactly, at the price of that part alone; `explain` says which and why.

    Args:
        loss: (params, *example) → a number, the loss of ONE example, as for `jax.vmap(jax.grad(loss))`. Parameters are any
            pytree of floating-point arrays. Keep it in a variable: programs that `stream` compiles are looked up by it.
        argnums: which arguments are the parameters; the gradient is a tuple where this is one.
        in_axes: of the other arguments, where their examples lie, as in `jax.vmap`: one for all, or a tuple with one for each;
            None for what all examples share, such as weights that are not trained.
        has_aux: the loss returns (number, aux).
        on_fallback: where a gradient has to be formed because a parameter could not be followed, "local" does so, "warn" says
            so, "error" refuses.

    Returns:
        a `Sweep`, (params, *batch, weight=None) → (values (b,), `FactoredGradient`), or ((values, aux), fg). Arguments stand
        where the loss has them. It is traced anew at each call: put `jax.jit` around what uses it.

    Raises:
        ValueError: shapes that do not fit, or a loss that is not of one example.
        TypeError: parameters that are not floating point.

    >>> def loss(params, x, y):
    ...     h = jnp.tanh(x @ params["w"] + params["b"])
    ...     return jnp.sum((h @ params["head"] - y) ** 2)
    >>> p = {"w": jnp.ones((2, 4)), "b": jnp.zeros(4), "head": jnp.ones(4)}
    >>> values, gradients = factored(loss)(p, x, y[:, 0])
    >>> jbp.norms(gradients).shape, jbp.total(jbp.clip(gradients, 1.0))["w"].shape
    ((5,), (2, 4))
    """
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}: expected a function (params, *example) → number")
    if on_fallback not in FALLBACKS:
        raise ValueError(f"on_fallback is {on_fallback!r}: expected one of {', '.join(FALLBACKS)}")
    leaves, tree = jax.tree.flatten(in_axes, is_leaf=_is_none)
    return Sweep(AnyLoss(loss, argnums, (tuple(leaves), tree), has_aux, on_fallback), _is_batch, _swept, _arranged)


def _is_none(node):
    return node is None


# ---- arguments: the trained ones, and the others, which are shared by all examples or have one part for each


def _arranged(model: AnyLoss, args: Sequence[Any]) -> tuple[tuple[Any, Any], tuple[Any]]:
    """((params, shared), (batch,)): shared and batch are all other arguments, None where the other has the array."""
    trained = _trained(model, len(args))
    params = [jax.tree.map(jnp.asarray, args[i]) for i in trained]
    others = tuple(arg for i, arg in enumerate(args) if i not in trained)
    axes = _axes(model, others)
    shared = jax.tree.map(lambda axis, a: a if axis is None else None, axes, others, is_leaf=_is_none)
    batch = jax.tree.map(_examples_first, axes, others, is_leaf=_is_none)
    return (tuple(params) if isinstance(model.argnums, tuple) else params[0], shared), (batch,)


def call_of(model: AnyLoss, args: Sequence[Any]) -> tuple[Any, Any, Any]:
    """(params, shared, example) of ONE example's arguments: nothing is shared."""
    trained = _trained(model, len(args))
    others = tuple(arg for i, arg in enumerate(args) if i not in trained)
    params = [args[i] for i in trained]
    are_floating("params", params)
    if not jax.tree.leaves(params):
        raise ValueError("the parameters hold no arrays: nothing to differentiate by")
    return (
        tuple(params) if isinstance(model.argnums, tuple) else params[0],
        jax.tree.map(lambda _: None, others),
        others,
    )


def _trained(model, count) -> list[int]:
    given = model.argnums if isinstance(model.argnums, tuple) else (model.argnums,)
    for i in given:
        if isinstance(i, bool) or not isinstance(i, int) or not -count <= i < count:
            raise ValueError(f"argnums is {model.argnums!r}, of {count} arguments: expected their places, from 0")
    if len({i % count for i in given}) < len(given):
        raise ValueError(f"argnums is {model.argnums!r}, of {count} arguments: expected each once")
    return [i % count for i in given]


def _axes(model, others):
    """in_axes, with an entry for every array."""
    leaves, tree = model.in_axes
    in_axes = jax.tree.unflatten(tree, leaves)
    try:
        return jax.tree.broadcast(in_axes, others, is_leaf=_is_none)
    except ValueError:
        expected = f"one for all, or a tuple with one for each of the {len(others)} arguments beside the parameters"
        raise ValueError(f"in_axes is {in_axes!r}: expected {expected}") from None


def _examples_first(axis, a):
    if axis is None:
        return None
    if not hasattr(axis, "__index__") or not -jnp.ndim(a) <= axis < jnp.ndim(a):
        raise ValueError(
            f"an argument has shape {jnp.shape(a)}, and its examples should lie along axis {axis!r}: give a batch, with an axis "
            "for its examples, or None in in_axes for what all of them share"
        )
    return jnp.moveaxis(a, axis, 0) if axis else a


def called(model: AnyLoss, params, shared, example):
    """The loss of one example, its arguments put together again."""
    others = list(jax.tree.map(lambda a, b: b if a is None else a, shared, example, is_leaf=_is_none))
    params = list(params) if isinstance(model.argnums, tuple) else [params]
    trained = _trained(model, len(others) + len(params))
    args = [params[trained.index(i)] if i in trained else others.pop(0) for i in range(len(others) + len(params))]
    return model.loss(*args)


# ---- the door


def _is_batch(_model: AnyLoss, params, batch, weight=None) -> None:
    """Refuse parameters that are no floating-point numbers, and a batch whose arrays do not have the same examples."""
    are_floating("params", params[0])
    if not jax.tree.leaves(params[0]):
        raise ValueError("the parameters hold no arrays: nothing to differentiate by")
    arrays = [(jax.tree_util.keystr(path), a) for path, a in jax.tree_util.tree_leaves_with_path(batch)]
    if not arrays:
        raise ValueError("no argument has examples: give a batch, with in_axes other than None")
    (first, a), *more = arrays
    for name, other in more:
        if len(other) != len(a):
            raise ValueError(
                f"argument {name} has {len(other)} examples, {first} has {len(a)}: expected as many; give None in in_axes for "
                "what all examples share"
            )
    if len(a) == 0:
        raise ValueError("the batch has no examples: give at least one")
    if weight is not None:
        fits({"b": len(a)}, weight=(weight, "b", REAL))


# ---- the loss as a program


class Read(NamedTuple):
    """A loss as read: its plan, the names of its parameters, how its aux is nested, and the arrays that it closes over."""

    plan: Plan
    names: list[str]
    aux: Any
    closed: list[Any]


def read(model: AnyLoss, params, shared, example) -> Read:
    """Trace the loss of one example, and find where each parameter enters; refuse what is no loss of one example."""
    closed, returned = _traced(model, params, shared, example)
    names = names_of(params)
    leaves, others, varying = map(jax.tree.leaves, (params, shared, example))
    _closes_over_none(closed.consts, leaves, names)
    program = flat(closed, len(leaves))
    views = [of_leaf(i, program.shapes[program.inputs[i]]) for i in range(len(leaves))]
    fixed, moving = [False] * (len(leaves) + len(others)), [True] * len(varying)
    plan = planned(program, [*views, *[None] * (len(others) + len(varying))], fixed + moving)
    _say_fallbacks(model.on_fallback, plan, names)
    _seems_used(plan, closed.consts, leaves, names)
    closed_over = [a for a in closed.consts if jnp.issubdtype(a.dtype, jnp.floating)]
    return Read(plan, names, jax.tree.structure(returned[1]) if model.has_aux else None, closed_over)


def names_of(params: Any) -> list[str]:
    """The path of each parameter, as "layer/w"; where two have one name, all but the first are numbered."""
    names: list[str] = []
    for path in paths_of(params):
        names.append(unused("/".join(path), names))
    return names


def _traced(model, params, shared, example):
    try:
        closed, returned = jax.make_jaxpr(partial(called, model), return_shape=True)(params, shared, example)
    except Exception as error:
        shapes = ", ".join(str(getattr(a, "shape", ())) for a in jax.tree.leaves(example))
        error.add_note(
            f"jaxbackprop calls the loss with ONE example, of shapes {shapes}, as jax.vmap(jax.grad(loss)) does"
        )
        raise
    value = returned
    if model.has_aux:
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError("the loss returns no pair (number, aux), and has_aux is True")
        value = returned[0]
    if not hasattr(value, "shape") or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        given = f"shape {value.shape} and dtype {value.dtype}" if hasattr(value, "shape") else f"{type(value).__name__}"
        hint = "" if model.has_aux else "; has_aux=True for (number, aux)"
        raise ValueError(
            f"the loss of one example gives {given}: expected one floating-point number, such as a mean{hint}"
        )
    return closed, returned


def _closes_over_none(constants, leaves, names) -> None:
    for constant in constants:
        for leaf, name in zip(leaves, names, strict=True):
            if constant is leaf:
                raise ValueError(
                    f"the loss closes over parameter {name!r}: it has to come in as an argument, or its gradient is lost"
                )


def _seems_used(plan, constants, leaves, names) -> None:
    """Under jit a closed-over parameter cannot be known by its identity: warn of one that is not used where its double is."""
    used = {site.view.leaf for site in plan.all_sites()} | {other.leaf for other in plan.all_others()}
    shapes = {(jnp.shape(a), jnp.result_type(a)) for a in constants}
    for i, (leaf, name) in enumerate(zip(leaves, names, strict=True)):
        if i not in used and leaf.size > 1 and (leaf.shape, leaf.dtype) in shapes:
            warnings.warn(
                f"parameter {name!r} is not used, and the loss closes over an array like it, {leaf.dtype} {leaf.shape}: should "
                "that be the argument?",
                stacklevel=5,
            )


def _say_fallbacks(on_fallback, plan, names) -> None:
    found = {other.leaf: other for other in plan.all_others() if other.step and other.step.name not in ELEMENTWISE}
    for leaf, other in found.items() if on_fallback != "local" else ():
        where = f"{other.step.name} at {other.step.line}" if other.step.line else other.step.name
        text = f"parameter {names[leaf]!r} enters {where}: its gradients are formed there, one for each example"
        if on_fallback == "error":
            raise ValueError(text)
        warnings.warn(text, stacklevel=5)


def _swept(model: AnyLoss, params, batch, weight=None):
    params, shared = params
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch)
    plan, names, aux, _ = read(model, params, shared, one)
    whole = sorted({other.leaf for other in plan.all_others()})
    if not whole and not any(plan.all_sites()):  # nothing is used: one gradient of 0 says how many examples there are
        whole = [0]
    leaves = jax.tree.leaves(params)

    def one_example(example, seed):
        return differentiated(plan, leaves, jax.tree.leaves((shared, example)), whole, seed)

    seeds = 1.0 if weight is None else weight  # one for all, or one for each
    axis = 0 if jnp.ndim(seeds) else None
    values, more, h, dz = jax.vmap(one_example, (0, axis))(batch, seeds)
    fg = gathered(plan, params, names, h, dz)
    return ((values, jax.tree.unflatten(aux, more)) if model.has_aux else values), fg


def losses_of(sweep: Sweep, *args) -> jax.Array:
    """Every example's loss, (b,), as a function that JAX differentiates by itself: of the arguments of the sweep."""
    model: Any = sweep.model
    (params, shared), (batch,) = sweep.arranged(model, args)

    def one(example):
        found = called(model, params, shared, example)
        return found[0] if model.has_aux else found

    return jax.vmap(one)(batch)
