"""Readouts: what can be contracted from every example's gradient without ever forming one.

The backward sweep leaves the pair (h, dz) for a batch; example b's gradient on the edge s→t is dz[b,t] h[b,s], an outer
product. Each function here is one contraction of that pair. Index letters: b, c examples; t, s entries of the target
and the source layer. `bias` below is 1 where layer t has a bias and 0 elsewhere: a bias is one more source whose h is 1.

    total      dW[t,s]   = Σ_b c[b] dz[b,t] h[b,s]                                    (in backprop.py)
    norms      n²[b]     = Σ_layers (Σ_t dz[b,t]²) (Σ_s h[b,s]² + bias)
    clip       dz[b,t]   ← dz[b,t] · min(1, C / n[b])
    moments    E[dW²]    = Σ_b dz[b,t]² h[b,s]² / B
    gram       K[b,c]    = Σ_layers (Σ_t dz[b,t] dz[c,t]) (Σ_s h[b,s] h[c,s] + bias)
    inner      v[b]      = Σ_edges Σ_t dz[b,t] (Σ_s V[t,s] h[b,s])

Below, P is the number of parameters, N the sum of the widths, and a flop an addition or a multiplication.

Sources: Goodfellow 2015, "Efficient per-example gradient computations" (the norm); Li et al. 2021, "Large language
models can be strong differentially private learners", and Bu et al. 2022, "Scalable and efficient training of large
convolutional neural networks with differential privacy" (clipping without forming gradients); Dangel et al. 2020,
"BackPACK" (moments from the factors); McCandlish et al. 2018, "An empirical model of large-batch training" (noise scale).

NaN and infinity in an example reach every figure that it is part of; `clip` alone leaves such examples out. What is not a
`FactoredGradient` is refused by a TypeError.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from jaxbackprop.backprop import FactoredGradient, require_factored, require_weight, scaled, total
from jaxbackprop.network import BIAS, Params, Precision, contract, require_array, require_params, wide


def squared_norms(fg: FactoredGradient) -> dict[str, Float[Array, " b"]]:
    """Each example's squared gradient norm, layer by layer: n²[b] = (Σ_t dz[b,t]²) (Σ_s h[b,s]² + bias).

    The square of a sum of outer products with the same dz factors, because the edges of a layer share it. Costs
    2 B N flops and no more memory than the answer; in float32 at least, as squares of small numbers vanish earlier.

    Returns:
        a dict with n² (b,) for each layer; over all layers they add up.

    >>> sorted(squared_norms(_example()))
    ['h0', 'yhat']
    """
    require_factored(fg)
    h2 = {s: jnp.sum(jnp.square(h.astype(wide(h.dtype))), axis=1) for s, h in fg.h.items()}
    dz2 = {t: jnp.sum(jnp.square(dz.astype(wide(dz.dtype))), axis=1) for t, dz in fg.dz.items()}
    return {t.name: dz2[t.name] * (sum(h2[s] for s in t.sources) + t.bias) for t in fg.network.layers}


def norms(fg: FactoredGradient) -> Float[Array, " b"]:
    """Each example's gradient norm over all parameters, n[b]; Goodfellow 2015. 2 B N flops.

    >>> norms(_example()).shape
    (5,)
    """
    return jnp.sqrt(sum(squared_norms(fg).values(), start=jnp.zeros(())))


def clip(fg: FactoredGradient, max_norm: ArrayLike, per_layer: bool = False) -> FactoredGradient:
    """Scale down each example's gradient to a norm of at most `max_norm`: dz[b,t] ← dz[b,t] min(1, C / n[b]).

    The result is a factored gradient like any other: `total(clip(fg, 1.0))` is the clipped sum at the price of one
    plain gradient (Li et al. 2021, Bu et al. 2022). An example whose gradient is not finite has no direction to keep:
    it is left out, as zeros; `count_not_finite(fg)` says how many are. 2 B N flops for the norms, B N for the scaling.
    So is an example whose squared norm overflows.

    Args:
        fg: the factored gradients of a batch.
        max_norm: C > 0; where it is traced, and not a positive number, the gradients are NaN.
        per_layer: clip each layer's part by itself, to C / √(number of layers), so that the whole still keeps to C.

    Raises:
        ValueError: `max_norm` is not a positive number.
        TypeError: it is no number at all, or `per_layer` is not True or False.

    >>> bool(jnp.all(norms(clip(_example(), 0.1)) <= 0.1 * (1 + 1e-6)))
    True
    """
    bound: Any = positive("max_norm", max_norm)
    if not isinstance(per_layer, bool | np.bool_):
        raise TypeError(f"per_layer is {per_layer!r}: expected True or False")
    squares = squared_norms(fg)
    whole = sum(squares.values(), start=jnp.zeros(()))
    if not isinstance(bound, Tracer):
        bound = min(float(bound), float(jnp.finfo(whole.dtype).max))
    finite = jnp.isfinite(whole)
    if per_layer:
        part = bound / len(squares) ** 0.5
        factor = {t: _factor(square, part, finite) for t, square in squares.items()}
    else:
        factor = dict.fromkeys(squares, _factor(whole, bound, finite))
    # h too: 0 · inf would still poison the sum
    h = {s: jnp.where(finite[:, None], h, 0) for s, h in fg.h.items()}
    dz = {t: jnp.where(finite[:, None], scaled(dz, factor[t][:, None]), 0) for t, dz in fg.dz.items()}
    return FactoredGradient(fg.network, h, dz)


def _factor(square, bound, finite):
    """min(1, C / n); at n = 0 it is 1, whatever C, unless C is 0 in this dtype."""
    n = jnp.maximum(jnp.sqrt(square), jnp.finfo(square.dtype).tiny)
    return jnp.where(finite, jnp.minimum(1, jnp.asarray(bound, square.dtype) / n), 0)


def count_not_finite(fg: FactoredGradient) -> Int[Array, ""]:
    """How many examples have a gradient whose squared norm is not finite, and are left out by `clip`; safe under jit.

    >>> int(count_not_finite(_example()))
    0
    """
    return jnp.sum(~jnp.isfinite(sum(squared_norms(fg).values(), start=jnp.zeros(()))))


def materialise(fg: FactoredGradient) -> Params:
    """Form the per-example gradients themselves, dW[b,t,s] = dz[b,t] h[b,s]: B P numbers, B P flops.

    What all the others avoid; for looking at a few examples, and for tests.

    >>> materialise(_example())["h0"]["x"].shape
    (5, 3, 2)
    """
    require_factored(fg)
    grads = {t.name: {s: contract("bt,bs->bts", fg.dz[t.name], fg.h[s]) for s in t.sources} for t in fg.network.layers}
    for t in fg.network.layers:
        if t.bias:
            grads[t.name][BIAS] = fg.dz[t.name]
    return grads


class PowerSums(NamedTuple):
    """Σ_b dW and Σ_b dW², elementwise, each shaped like the parameters."""

    first: Params
    second: Params


def power_sums(
    fg: FactoredGradient, weight: Float[Array, " b"] | None = None, precision: Precision = None
) -> PowerSums:
    """What moments are made of: Σ_b c[b] dz[b,t] h[b,s] and Σ_b c[b] dz[b,t]² h[b,s]².

    It sums over examples, so that `stream` takes it: the moments over any number of examples in the memory of a tile.
    Two contractions, 4 B P flops, 2 P numbers (Dangel et al. 2020); squares in float32 at least.

    >>> from jaxbackprop.streaming import stream
    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1))
    >>> x, y = jax.random.normal(jax.random.key(1), (10, 2)), jnp.ones((10, 1))
    >>> _, sums = stream(net, "huber", power_sums, tile=5)(init(net, jax.random.key(0)), x, y)
    >>> moments_from(sums, examples=10).variance["h0"]["x"].shape
    (3, 2)
    """
    require_factored(fg)
    square = FactoredGradient(fg.network, *(jax.tree.map(_square, factor) for factor in (fg.h, fg.dz)))
    return PowerSums(total(fg, weight, precision), total(square, weight, precision))


class Moments(NamedTuple):
    """Mean and variance of the examples' gradients, each shaped like the parameters."""

    mean: Params
    variance: Params


def moments(fg: FactoredGradient, weight: Float[Array, " b"] | None = None, precision: Precision = None) -> Moments:
    """Mean and variance over the batch, dividing by B: E[dW²] = Σ_b dz[b,t]² h[b,s]² / B, less the squared mean.

    The subtraction cancels where the mean is much larger than the spread, as it does in any one-pass variance; what
    rounding leaves below 0 is given as 0. The cost is that of `power_sums`.

    Args:
        fg: the factored gradients of a batch.
        weight: c, one number for each example: Σ_b c[b] … / Σ_b c[b], so that weight 0 is padding. Weights that add up
            to 0 have no mean: all is NaN then, as it is where a traced weight is below 0.
        precision: of the contractions.

    Raises:
        ValueError: `weight` is not one number of at least 0 for each example.

    >>> moments(_example()).variance["h0"]["x"].shape
    (3, 2)
    """
    require_factored(fg)
    batch = next(iter(fg.dz.values())).shape[0]
    weight = jnp.ones(batch, wide(next(iter(fg.dz.values())).dtype)) if weight is None else weight
    require_weight(weight, batch)
    if not isinstance(weight, Tracer) and np.any(np.asarray(weight) < 0):
        raise ValueError("weight holds a number below 0: moments need weights of at least 0")
    c = jnp.asarray(weight, wide(jnp.result_type(weight)))
    c = jnp.where(c < 0, jnp.nan, c)
    return moments_from(power_sums(fg, c / jnp.sum(c), precision), 1)


def moments_from(sums: PowerSums, examples: ArrayLike) -> Moments:
    """Mean and variance from the power sums of so many examples: Σ dW / B, and Σ dW² / B less the square of the mean.

    Args:
        sums: of `power_sums`, or added up by `stream`.
        examples: B, or Σ_b c[b] where they are weighted; where it is traced, and not a positive number, all is NaN.

    Raises:
        ValueError: `examples` is not a positive number.
        TypeError: something else than `PowerSums`, or than a number.

    >>> fg = _example()
    >>> given, expected = moments_from(power_sums(fg), 5), moments(fg)
    >>> bool(jnp.allclose(given.variance["h0"]["x"], expected.variance["h0"]["x"], atol=1e-6))
    True
    """
    if not isinstance(sums, PowerSums):
        raise TypeError(f"sums is a {type(sums).__name__}: expected the PowerSums that power_sums returns")
    examples = positive("examples", examples)
    mean = jax.tree.map(lambda m: (m / examples).astype(m.dtype), sums.first)
    variance = jax.tree.map(lambda m, m2: jnp.maximum(m2 / examples - _square(m), 0).astype(m.dtype), mean, sums.second)
    return Moments(mean, variance)


def _square(d):
    return jnp.square(d.astype(wide(d.dtype)))


def gram(
    fg: FactoredGradient, other: FactoredGradient | None = None, precision: Precision = None
) -> Float[Array, "b c"]:
    """Inner products of all pairs of gradients: K[b,c] = Σ_layers (Σ_t dz[b,t] dz[c,t]) (Σ_s h[b,s] h[c,s] + bias).

    The empirical tangent kernel of the loss. 2 B C N flops and B C numbers, where forming the gradients would take
    2 B C P flops and (B + C) P numbers.

    Args:
        fg: the factored gradients of B examples.
        other: those of C more examples of the same network; `fg` itself by default.
        precision: of the contractions.

    Raises:
        ValueError: `other` is of another network.
        TypeError: it is no `FactoredGradient`.

    >>> gram(_example()).shape
    (5, 5)
    """
    require_factored(fg)
    other = fg if other is None else other
    require_factored(other, "other")
    if other.network != fg.network:
        raise ValueError(f"other is of another network: {other.network}; expected {fg.network}")
    kernel = jnp.zeros(())
    for t in fg.network.layers:
        hh = sum((contract("bs,cs->bc", fg.h[s], other.h[s], precision=precision) for s in t.sources), start=t.bias)
        kernel = kernel + contract("bt,ct->bc", fg.dz[t.name], other.dz[t.name], precision=precision) * hh
    return kernel


def inner(fg: FactoredGradient, direction: Params, precision: Precision = None) -> Float[Array, " b"]:
    """Each example's gradient along a direction V: v[b] = Σ_edges Σ_t dz[b,t] (Σ_s V[t,s] h[b,s]) + Σ_biases dz[b]·V.

    With V the gradient of a test loss it is the first-order influence of each example. 2 B P flops, B N numbers.

    Args:
        fg: the factored gradients of a batch.
        direction: V, shaped like the parameters.
        precision: of the contractions.

    Raises:
        ValueError: `direction` is not shaped like the network's parameters.

    >>> fg = _example()
    >>> bool(jnp.allclose(inner(fg, total(fg)), gram(fg).sum(axis=1), rtol=1e-5))
    True
    """
    require_factored(fg)
    require_params(fg.network, direction, "direction")
    values = jnp.zeros(())
    for t in fg.network.layers:
        V = direction[t.name]
        dz = fg.dz[t.name]
        for s in t.sources:
            Vh = contract("bs,ts->bt", fg.h[s], V[s], precision=precision)
            values = values + contract("bt,bt->b", dz, Vh)
        if t.bias:
            values = values + contract("bt,t->b", dz, V[BIAS])
    return values


class NoiseScale(NamedTuple):
    """The simple gradient noise scale tr(Σ) / |G|², and the unbiased estimates that it is the ratio of."""

    noise_scale: Float[Array, ""]
    trace: Float[Array, ""]
    squared_norm: Float[Array, ""]


def noise_scale(fg: FactoredGradient, precision: Precision = None) -> NoiseScale:
    """Estimate the simple noise scale tr(Σ) / |G|²: about the batch size beyond which larger batches stop paying.

    McCandlish et al. 2018, appendix A.1, with batches of 1 and of B: with n² the mean squared norm of the examples'
    gradients and g² the squared norm of their mean,

        tr(Σ) ≈ (n² − g²) B / (B − 1)        |G|² ≈ (B g² − n²) / (B − 1).

    Both estimates are unbiased, their ratio is not; over several batches average them before dividing. |G|² can come
    out negative where the noise is much larger than the gradient: the ratio then says nothing. The batch counts as a
    sample: where it is all the data there is, |G|² is the squared norm of its mean, without the correction.

    Raises:
        ValueError: fewer than two examples.

    >>> float(noise_scale(_example()).trace) >= 0
    True
    """
    require_factored(fg)
    batch = next(iter(fg.dz.values())).shape[0]
    if batch < 2:
        raise ValueError(f"the batch has {batch} example: a noise scale needs at least 2")
    n2 = jnp.mean(sum(squared_norms(fg).values(), start=jnp.zeros(())))
    mean = total(fg, jnp.full(batch, 1 / batch, n2.dtype), precision)
    g2 = sum((jnp.sum(_square(leaf)) for leaf in jax.tree.leaves(mean)), start=jnp.zeros(()))
    trace, squared_norm = (n2 - g2) * batch / (batch - 1), (batch * g2 - n2) / (batch - 1)
    return NoiseScale(trace / squared_norm, trace, squared_norm)


def require_max_norm(max_norm: ArrayLike) -> None:
    """Refuse a bound that is not a positive number, where its value is known."""
    positive("max_norm", max_norm)


def positive(name: str, number: ArrayLike) -> ArrayLike:
    """The number, if it is a positive one; otherwise refused where its value is known, NaN where it is traced."""
    require_array(name, number, "a positive number")
    if jnp.shape(number) != ():
        raise ValueError(f"{name} has shape {jnp.shape(number)}: expected one positive number")
    dtype = jnp.result_type(number)
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{name} has dtype {dtype}: expected a positive number")
    if isinstance(number, Tracer):
        return jnp.where((number > 0) & (number < jnp.inf), number, jnp.nan)
    if not 0 < np.asarray(number) < np.inf:
        raise ValueError(f"{name} is {number}: expected a positive number")
    return number


def _example() -> FactoredGradient:
    """Five examples of a small network, for the examples in this file."""
    from jaxbackprop.backprop import per_example
    from jaxbackprop.network import init, mlp

    net = mlp((2, 3, 1), bias=True)
    x = jax.random.normal(jax.random.key(1), (5, 2))
    return per_example(net, "half_squared_error")(init(net, jax.random.key(0)), x, jnp.ones((5, 1)))[1]
