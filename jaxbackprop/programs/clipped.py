"""Clipped sums of any loss's gradients: called as `jax_privacy.clipped_grad` is, from factors.

    n[b] = |dW[b]|      c[b] = min(1, C / n[b]), to unit norm min(1 / C, 1 / n[b])      dW = Σ_b c[b] dW[b] / N

The norms need no gradient formed, and c is a weight of the sum. An example whose norm is not finite is the exception: it is
formed, one at a time, so that what is not finite in it can be 0 while the rest of it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from jaxbackprop.arithmetic import widened
from jaxbackprop.factors import FactoredGradient, materialise, total
from jaxbackprop.programs.factored import factored
from jaxbackprop.readouts import norms, to_clip
from jaxbackprop.views import Use
from jaxbackprop.words import require_positive

with_path = jax.tree_util.tree_leaves_with_path
SENSITIVITY = {"ADD_OR_REMOVE_ONE": 1, "REPLACE_SPECIAL": 1, "REPLACE_ONE": 2}


class AuxiliaryOutput(NamedTuple):
    """What there is beside the gradient, for each example; None where it was not asked for."""

    values: Any
    grad_norms: Any
    aux: Any


@dataclass(frozen=True, eq=False)
class BoundedSensitivityCallable:
    """A function whose result one example changes by `l2_norm_bound` at most; with `has_aux`, the first of its pair."""

    fun: Callable
    l2_norm_bound: Any
    has_aux: bool

    def __call__(self, *args, **kwargs):
        """Call the function."""
        return self.fun(*args, **kwargs)

    def sensitivity(self, neighboring_relation: Any = "REPLACE_SPECIAL"):
        """The L2 sensitivity under a relation of dp_accounting, or its name: replacing an example counts twice."""
        name = getattr(neighboring_relation, "name", neighboring_relation)
        if name not in SENSITIVITY:
            raise ValueError(
                f"neighboring_relation is {neighboring_relation!r}: expected one of {', '.join(SENSITIVITY)}"
            )
        return SENSITIVITY[name] * self.l2_norm_bound


def clipped_grad(
    fun: Callable,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    l2_clip_norm: Any,
    rescale_to_unit_norm: bool = False,
    normalize_by: float = 1.0,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    return_values: bool = False,
    return_grad_norms: bool = False,
    pre_clipping_transform: Callable | None = None,
    microbatch_size: int | None = None,
    nan_safe: bool = True,
    dtype: DTypeLike | None = None,
    prng_argnum: int | None = None,
    spmd_axis_name: None = None,
) -> BoundedSensitivityCallable:
    """Return a function of fun's arguments that sums its examples' gradients, each clipped: Σ_b min(1, C / n[b]) dW[b] / N.

    To change over from jax_privacy (its documentation is the source of the options) change the import. Memory is that of the
    factors, not b times that of the parameters.

    Args:
        fun: the loss; one example at a time, of arrays with an axis of 1 in front unless `keep_batch_dim` is False.
        argnums: what to differentiate by, as in `jax.grad`.
        has_aux: fun returns (loss, aux); each example's aux is given back.
        l2_clip_norm: C ≥ 0, which may be infinite or traced. An example without a gradient adds nothing, whatever C.
        rescale_to_unit_norm: divide by C too: c[b] = min(1 / C, 1 / n[b]).
        normalize_by: N > 0, which the sum is divided by.
        batch_argnums: which arguments have examples on their first axis; so do all that are given by name.
        keep_batch_dim: whether fun sees batches of one. Where aux then has a second axis of length 1, that is dropped.
        return_values: give back each example's loss.
        return_grad_norms: give back each example's norm, before clipping and before the transform.
        pre_clipping_transform: a function of one example's gradient; clipped is what it returns. It needs gradients formed:
            of all examples at once, or of `microbatch_size`.
        microbatch_size: how many examples to sweep at a time; they must divide the batch.
        nan_safe: count as 0 what is not finite in a gradient. Otherwise it makes the sum NaN where it stands, and nothing
            else of its example is added.
        dtype: of the sum; by default that of the parameters.
        prng_argnum: an argument that is a key, or a pytree of keys, split into one for each example.
        spmd_axis_name: None.

    Returns:
        (*args, is_padding_example=None, **kwargs) → dW, shaped like what was differentiated by, or (dW, AuxiliaryOutput) where
        anything else was asked for. Examples that the booleans (b,) call padding add nothing. Microbatch i of k takes the
        examples i, i + k, …; those after the last with an example that is no padding are not computed: their outputs are 0.

    Raises:
        ValueError: an option out of its range, or arguments that do not fit it; or a fun that gives no scalar, or takes
            examples without the axis of 1 alone.
        TypeError: fun is no function.

    >>> loss = jbp.plain_loss(net, "huber")
    >>> clipped = clipped_grad(loss, l2_clip_norm=0.5, batch_argnums=(1, 2), return_values=True)
    >>> dW, aux = clipped(params, x, y)
    >>> dW["h0"]["x"].shape, aux.values.shape, clipped.sensitivity()
    ((3, 2), (5,), 0.5)
    """
    asked = SimpleNamespace(**locals())
    asked.places, asked.batch = ((i,) if isinstance(i, int) else tuple(i) for i in (argnums, batch_argnums))
    asked.beside = has_aux or return_values or return_grad_norms
    is_clipping(asked)
    bound = (1.0 if rescale_to_unit_norm else l2_clip_norm) / normalize_by
    return BoundedSensitivityCallable(partial(_clipped, asked), bound, asked.beside)


def is_clipping(asked: Any) -> None:
    """Refuse options that are out of their range, or that do not go together."""
    C, N, dtype, prng, axis = (
        asked.l2_clip_norm, asked.normalize_by, asked.dtype, asked.prng_argnum, asked.spmd_axis_name
    )  # fmt: skip
    taken = (*asked.places, *asked.batch)
    if not callable(asked.fun):
        raise TypeError(f"fun is a {type(asked.fun).__name__}: expected a function (params, batch) → loss")
    if jnp.shape(C) != () or (isinstance(C, Real) and not float(C) >= 0):
        raise ValueError(f"l2_clip_norm is {C}: expected one number of at least 0")
    if not N > 0:
        raise ValueError(f"normalize_by is {N}: expected a positive number, such as the expected size of a batch")
    if not asked.places or not asked.batch or min(taken) < 0 or len(set(taken)) < len(taken):
        places = f"argnums is {asked.places} and batch_argnums {asked.batch}"
        raise ValueError(f"{places}: expected positions from 0, one each at least, and none twice")
    if prng is not None and (prng in taken or prng < 0):
        raise ValueError(f"prng_argnum is {prng}: expected a position from 0 that argnums and batch_argnums leave free")
    if asked.microbatch_size is not None:
        require_positive("microbatch_size", asked.microbatch_size)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype!r}: expected floating point, such as 'float32'")
    if axis is not None:
        raise ValueError(f"spmd_axis_name is {axis!r}: expected None; under jit shard the first axis of the batch")


def is_call(asked: Any, args: tuple, named: dict[str, Any]) -> int:
    """Refuse arguments that are too few, or whose examples are not equally many; how many examples there are."""
    fewest = 1 + max(*asked.places, *asked.batch, asked.prng_argnum or 0)
    if len(args) < fewest:
        raise ValueError(
            f"{len(args)} arguments stand by position: expected {fewest}, as the argnums name the last of them"
        )
    mapped = {f"args[{i}]": args[i] for i in asked.batch} | named
    leaves = (
        (name + jax.tree_util.keystr(path), leaf) for name, tree in mapped.items() for path, leaf in with_path(tree)
    )
    shapes = {name: jnp.shape(leaf) for name, leaf in leaves}
    first = {shape[:1] for shape in shapes.values()}
    if len(first) != 1 or first == {()}:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        found = f"shapes {found}" if found else "no arrays"
        raise ValueError(f"the batch has {found}: expected arrays with one length of the first axis")
    ((b,),) = first
    if b % (asked.microbatch_size or 1):
        raise ValueError(
            f"microbatch_size is {asked.microbatch_size}, which does not divide {b} examples: pad the batch"
        )
    return b


def _clipped(asked, *args, is_padding_example=None, **named):
    b = is_call(asked, args, named | ({} if is_padding_example is None else {"is_padding_example": is_padding_example}))
    padding = jnp.zeros(b, bool) if is_padding_example is None else jnp.asarray(is_padding_example, bool)
    try:
        dW, aux = _computed(asked, args, named, padding)
    except Exception as error:  # anyone's code
        if asked.keep_batch_dim and _takes_one(asked, args, named, padding):
            raise ValueError(
                "fun fails on examples with a leading axis of 1, a batch of one each, and works without that axis: give "
                "keep_batch_dim=False, which hands it one example"
            ) from error
        raise
    if asked.keep_batch_dim:
        aux = jax.tree.map(lambda a: jnp.squeeze(a, 1) if jnp.shape(a)[1:2] == (1,) else a, aux)
    dW = jax.tree.map(lambda g: g / asked.normalize_by, dW)
    return (dW, aux) if asked.beside else dW


def _computed(asked, args, named, padding):
    """The clipped sum before it is divided, and what else is asked of each example."""
    params, arrays, axes, loss = _arranged(asked, args, named, len(padding))
    one = partial(_swept, asked, factored(loss, in_axes=tuple(axes), has_aux=asked.has_aux), params)
    size = asked.microbatch_size
    return one(arrays, padding) if size is None else _in_tiles(one, arrays, axes, padding, len(padding) // size)


def _takes_one(asked, args, named, padding) -> bool:
    """Whether fun could be read without the axis of 1."""
    try:
        jax.eval_shape(
            lambda: _computed(SimpleNamespace(**vars(asked) | {"keep_batch_dim": False}), args, named, padding)
        )
    except Exception:
        return False
    return True


def _arranged(asked, args, named, b):
    """(params, the arrays beside them, the axis of each, the loss of params and these)."""
    params = args[asked.argnums] if isinstance(asked.argnums, int) else tuple(args[i] for i in asked.places)
    args = [None if i in asked.places else arg for i, arg in enumerate(args)]
    for i in asked.batch if asked.keep_batch_dim else ():
        args[i] = jax.tree.map(lambda a: jnp.expand_dims(a, 1), args[i])
    if (i := asked.prng_argnum) is not None:
        args[i] = jax.tree.map(lambda key: jax.random.split(key, b), args[i])
    leaves, tree = jax.tree.flatten((args, named))
    is_mapped = [i in (*asked.batch, asked.prng_argnum, len(args)) for i in range(len(args) + 1)]
    axes = [0 if m else None for m, arg in zip(is_mapped, (*args, named), strict=True) for _ in jax.tree.leaves(arg)]
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

    def loss(params, *arrays):  # what is no array stays a constant that fun may decide by
        given = dict(zip(places, arrays, strict=True))
        args, named = jax.tree.unflatten(tree, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
        for i, p in zip(asked.places, [params] if isinstance(asked.argnums, int) else params, strict=True):
            args[i] = p
        return asked.fun(*args, **named)

    return jax.tree.map(jnp.asarray, params), [leaves[i] for i in places], [axes[i] for i in places], loss


def _swept(asked, sweep, params, arrays, padding):
    """The clipped sum of some examples, and what else is asked of each."""
    values, fg = sweep(params, *arrays)
    fg = to_clip(fg)
    values, aux = values if asked.has_aux else (values, None)
    dtypes, n = jax.tree.map(jnp.result_type, params), norms(fg)
    given = n.astype(jnp.result_type(*jax.tree.leaves(dtypes))) if asked.return_grad_norms else None
    if asked.pre_clipping_transform is not None:
        G = jax.vmap(asked.pre_clipping_transform)(jax.tree.map(jnp.astype, materialise(fg), dtypes))
        dtypes, fg = jax.tree.map(jnp.result_type, G), _whole(G)
        n = norms(fg)
    if asked.dtype is not None:
        dtypes = jax.tree.map(lambda _: asked.dtype, dtypes)
        fg = _of_floats(lambda a: a.astype(jnp.promote_types(a.dtype, asked.dtype)), fg)
    dW = jax.tree.map(jnp.astype, _summed(asked, fg, n, padding), dtypes)
    return dW, AuxiliaryOutput(values if asked.return_values else None, given, aux)


def _summed(asked, fg, n, padding):
    """Σ_b c[b] dW[b] of what is no padding."""
    bad = ~(padding | jnp.isfinite(n)) if asked.nan_safe else jnp.zeros_like(padding)
    out = padding | bad
    # h too: 0 · inf would still poison the sum
    kept = _of_floats(lambda a: jnp.where(out.reshape(-1, *[1] * (a.ndim - 1)), 0, a), fg)
    dW = total(kept, _factor(asked, n))
    # a branch, as a compiler may move what a loop gathers in front of it, though it has no rounds
    add_bad = partial(_add_cleaned, asked, fg, bad)
    return jax.lax.cond(jnp.any(bad), add_bad, lambda dW: dW, dW) if asked.nan_safe else dW


def _add_cleaned(asked, fg, bad, dW):
    """Add the examples that are bad, one formed at a time, with 0 for what is not finite in it."""
    order = jnp.argsort(~bad)

    def add(i, dW):
        G = materialise(jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, order[i], 1), fg))
        one = _whole(jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0), G))
        return jax.tree.map(lambda dW, g: dW + g.astype(dW.dtype), dW, total(one, _factor(asked, norms(one))))

    return jax.lax.fori_loop(0, jnp.sum(bad), add, dW)


def _factor(asked, n):
    """c[b]; 0 where it would be no number."""
    C = jnp.maximum(jnp.asarray(asked.l2_clip_norm, n.dtype), 0)
    c = jnp.minimum(1 / C, 1 / n) if asked.rescale_to_unit_norm else jnp.minimum(1, C / n)
    return jnp.where(jnp.isfinite(c), c, 0)


def _whole(G):
    """Gradients that are formed, (b, …) each, as a factored gradient."""
    leaves, tree = jax.tree.flatten(G)
    dz = {f"leaf {i}": g for i, g in enumerate(leaves)}
    uses = tuple(Use(i, "whole", key) for i, key in enumerate(dz))
    return FactoredGradient({}, dz, uses, tree, tuple(g.shape[1:] for g in leaves))


def _of_floats(function, fg):
    return jax.tree.map(lambda a: function(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, fg)


def _in_tiles(one, arrays, axes, padding, tiles):
    """The sum over tiles, and what each example has, in their order."""

    def part(i, a, axis=0):
        if axis is None:
            return a
        return jax.lax.dynamic_index_in_dim(jnp.reshape(a, (-1, tiles, *a.shape[1:])), i, 1, keepdims=False)

    def tile(i):
        return one([part(i, *pair) for pair in zip(arrays, axes, strict=True)], part(i, padding))

    def add(dW, i):
        more, aux = jax.lax.cond(i < needed, tile, lambda _: zeros(like), i)
        return jax.tree.map(jnp.add, dW, widened(more)), aux

    zeros = partial(jax.tree.map, lambda a: jnp.zeros(a.shape, a.dtype))
    like = jax.eval_shape(tile, 0)
    needed = jnp.max(jnp.where(padding.reshape(-1, tiles).all(axis=0), 0, jnp.arange(tiles) + 1))
    dW, aux = jax.lax.scan(add, zeros(jax.eval_shape(widened, like[0])), jnp.arange(tiles))
    aux = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:]), aux)
    return jax.tree.map(lambda a, like: a.astype(like.dtype), dW, like[0]), aux
