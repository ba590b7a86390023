"""How much the examples' gradients differ: second moments, mean and variance, and the gradient noise scale.

    Σ_b c[b] dW[b]²    bltm, blum, bltn, blun → lnm, of one position dz[b]² (h[b]²)ᵀ        Var = E[dW²] − E[dW]²

Uses of a parameter add before anything is squared. Sources: Dangel et al. 2020, "BackPACK" (moments from the factors);
McCandlish et al. 2018, "An empirical model of large-batch training" (noise scale).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxbackprop.arithmetic import Precision, scaled, wide
from jaxbackprop.doors import asks, bare, is_factored, is_weighted
from jaxbackprop.factors import FactoredGradient, total
from jaxbackprop.readouts import layers_of, squared_norms
from jaxbackprop.refusals import is_positive
from jaxbackprop.views import as_leaf, examples_of, factors_of, formed, product

Params = PyTree[Array]


class PowerSums(NamedTuple):
    """Σ_b dW and Σ_b dW², elementwise, each shaped like the parameters."""

    first: Params
    second: Params


@asks(is_weighted)
def power_sums(
    fg: FactoredGradient, weight: Float[Array, " b"] | None = None, precision: Precision = None
) -> PowerSums:
    """What moments are made of: Σ_b c[b] dz[b,t] h[b,s] and Σ_b c[b] dz[b,t]² h[b,s]².

    It sums over examples, so that `stream` takes it: the moments over any number of examples in the memory of a tile.
    Two contractions, 4 B P flops, 2 P numbers (Dangel et al. 2020); squares in float32 at least.

    >>> _, sums = jbp.stream(net, "huber", power_sums, tile=2)(params, x, y)
    >>> moments_from(sums, examples=5).variance["h0"]["x"].shape
    (3, 2)
    """
    weight = None if weight is None else jnp.asarray(weight)
    return PowerSums(total(fg, weight, precision), _second(fg, weight, precision))


def _second(fg, weight, precision):
    """Σ_b c[b] (Σ_u G_u[b])², elementwise."""

    def squared(leaf):
        uses = [use for use in fg.uses if use.leaf == leaf]
        if [use.kind for use in uses] == ["outer"] and "t" not in uses[0].positions:
            (use,) = uses
            (h, dz), dtype = (
                factors_of(fg, use),
                fg.dz[use.dz].dtype,
            )  # the square of a product is the product of the squares
            dz2 = _square(dz) if weight is None else scaled(_square(dz), weight)
            return as_leaf(fg, use, product("bn,bm->nm", use, dz2, _square(h), precision=precision)).astype(dtype)
        G = formed(fg, uses, leaf, examples_of(fg))
        return jnp.sum(_square(G) if weight is None else scaled(_square(G), weight), axis=0).astype(G.dtype)

    return jax.tree.unflatten(fg.tree, [squared(leaf) for leaf in range(len(fg.shapes))])


class Moments(NamedTuple):
    """Mean and variance of the examples' gradients, each shaped like the parameters."""

    mean: Params
    variance: Params


@asks(is_weighted)
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

    >>> moments(fg).variance["h0"]["x"].shape
    (3, 2)
    """
    weight = jnp.ones(examples_of(fg), wide(next(iter(fg.dz.values())).dtype)) if weight is None else weight
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

    >>> fg = fg
    >>> given, expected = moments_from(power_sums(fg), 5), moments(fg)
    >>> bool(jnp.allclose(given.variance["h0"]["x"], expected.variance["h0"]["x"], atol=1e-6))
    True
    """
    if not isinstance(sums, PowerSums):
        raise TypeError(f"sums is a {type(sums).__name__}: expected the PowerSums that power_sums returns")
    examples = is_positive("examples", examples)
    mean = jax.tree.map(lambda m: (m / examples).astype(m.dtype), sums.first)
    variance = jax.tree.map(lambda m, m2: jnp.maximum(m2 / examples - _square(m), 0).astype(m.dtype), mean, sums.second)
    return Moments(mean, variance)


def _square(d):
    return jnp.square(d.astype(wide(d.dtype)))


class NoiseScale(NamedTuple):
    """The simple gradient noise scale tr(Σ) / |G|², and the unbiased estimates that it is the ratio of."""

    noise_scale: Float[Array, ""]
    trace: Float[Array, ""]
    squared_norm: Float[Array, ""]


@asks(is_factored)
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

    >>> float(noise_scale(fg).trace) >= 0
    True
    """
    parts = bare(noise_scales)(fg, precision).values()
    trace, squared_norm = (sum((part[i] for part in parts), start=jnp.zeros(())) for i in (1, 2))
    return NoiseScale(trace / squared_norm, trace, squared_norm)


@asks(is_factored)
def noise_scales(fg: FactoredGradient, precision: Precision = None) -> dict[str, NoiseScale]:
    """The same, layer by layer: traces and squared norms add up to those of the whole, ratios do not.

    Raises:
        ValueError: fewer than two examples.

    >>> sorted(noise_scales(fg))
    ['h0', 'yhat']
    """
    batch = examples_of(fg)
    if batch < 2:
        raise ValueError(f"the batch has {batch} example: a noise scale needs at least 2")
    n2 = {layer: jnp.mean(square) for layer, square in squared_norms(fg).items()}
    mean = total(fg, jnp.full(batch, 1 / batch, next(iter(n2.values())).dtype), precision)
    g2 = dict.fromkeys(n2, jnp.zeros(()))
    for layer, leaf in zip(layers_of(fg), jax.tree.leaves(mean), strict=True):
        g2[layer] += jnp.sum(_square(leaf))
    traces = {layer: (n2[layer] - g2[layer]) * batch / (batch - 1) for layer in n2}
    squares = {layer: (batch * g2[layer] - n2[layer]) / (batch - 1) for layer in n2}
    return {layer: NoiseScale(traces[layer] / squares[layer], traces[layer], squares[layer]) for layer in n2}
