"""The gradient of any wiring, derived by hand: one backward sweep per example, then one contraction per edge.

For ONE example the forward pass of layer t, with an edge from each of its sources s, is

    z_t = Σ_s W_ts h_s + b_t        h_t = g_t(z_t)        h_x = x,   yhat = h of the last layer,   L = L(yhat, y).

`dfoo` is dL/dfoo. Go backwards through the layers; when layer s is reached, dz_t is known for every t that reads s.

(1) h_s enters L through each layer t that reads it, z_t = W_ts h_s + …, and through nothing else. The chain rule sums
    over those paths ("because of skip connection"):
        dh_s = Σ over edges s→t of  W_tsᵀ dz_t            for the last layer instead  dh = dL/dyhat

(2) h_t = g_t(z_t) elementwise, so that the Jacobian is diagonal:
        dz_t = dh_t · g_t'(z_t)

(3) (z_t)_i = Σ_j (W_ts)_ij (h_s)_j + …, so that (W_ts)_ij meets (dz_t)_i and (h_s)_j alone:
        dW_ts = dz_t h_sᵀ        db_t = dz_t

Equation (3) says that an example's gradient on an edge is an outer product. It need not be formed: over a batch

    Σ_b c_b dW_ts,b = Σ_b (c_b dz_t,b) h_s,bᵀ

is one matrix product, and every other readout in `factored.py` is another contraction of the same pair (h, dz). The
sweep is therefore written for one example and vmapped, and equation (3) is contracted once per edge, over the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from jaxbackprop.activations import as_activation
from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.network import (
    BIAS,
    INPUT,
    Forward,
    Network,
    Params,
    Precision,
    batch_axis,
    contract,
    forward,
    require_array,
    require_input,
    require_network,
    require_params,
    sum_paths,
    weigh,
    wide,
    widths,
)


class Backward(NamedTuple):
    """Every adjoint of the sweep, by layer: dz = dL/dz and dh = dL/dh; dh["x"] is dL/dx."""

    dz: dict[str, Array]
    dh: dict[str, Array]


def backward(
    network: Network, params: Params, f: Forward, dyhat: Float[Array, " k"], precision: Precision = None
) -> Backward:
    """Equations (1) and (2): every dh and dz of one example, from yhat back to x.

    Args:
        network: the wiring.
        params: the parameters that `f` was computed with.
        f: the values, `forward(network, params, x)`.
        dyhat: dL/dyhat, shaped like yhat.
        precision: of the products Wᵀ dz.

    Raises:
        ValueError: `f` or `dyhat` is not shaped like the network's values.
        TypeError: `f` is no `Forward`, or `dyhat` no array.

    >>> from jaxbackprop.network import init, skip_mlp
    >>> net = skip_mlp((2, 3, 4, 1))
    >>> params = init(net, jax.random.key(0))
    >>> b = backward(net, params, forward(net, params, jnp.ones(2)), dyhat=jnp.ones(1))
    >>> b.dz["h1"].shape, b.dh["h0"].shape, b.dh["x"].shape
    ((4,), (3,), (2,))
    """
    require_network(network, precision)
    require_params(network, params)
    _require_values(network, f, dyhat)
    last = network.layers[-1].name
    dz, dh = {}, {}
    for name in (*(t.name for t in reversed(network.layers)), INPUT):
        readers = [t.name for t in network.layers if name in t.sources]
        paths = [weigh(network, "ts,t->s", params[t][name], dz[t], precision) for t in reversed(readers)]
        dh[name] = dyhat if name == last else sum_paths(paths or [jnp.zeros_like(f.h[name])])
        if name != INPUT:
            slope = _activation(network, name).derivative(f.z[name])
            if jnp.shape(slope) not in ((), jnp.shape(f.z[name])):
                raise ValueError(
                    f"layer {name!r}: the activation's derivative has shape {jnp.shape(slope)} for z of shape "
                    f"{jnp.shape(f.z[name])}: it must act elementwise"
                )
            dz[name] = dh[name] * slope
    return Backward(dz, dh)


def sweep(
    network: Network,
    loss: LossLike,
    params: Params,
    x: Float[Array, " d"],
    y: Num[Array, "..."],
    weight: Float[Array, ""] | float = 1.0,
    precision: Precision = None,
) -> tuple[Float[Array, ""], Forward, Backward]:
    """Run forward and back for one example: the loss, every value, every adjoint.

    Adjoints are of weight · L: the sweep is linear in dyhat, so that a weight there is a weight on all that follows.

    Raises:
        ValueError: parameters, an example, a target or a weight that do not fit.
        TypeError: something that is not an array where one is needed, a list say.

    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1))
    >>> params = init(net, jax.random.key(0))
    >>> value, f, b = sweep(net, "half_squared_error", params, jnp.ones(2), jnp.zeros(1))
    >>> bool(b.dh["yhat"] == f.h["yhat"])  # yhat − y with y = 0
    True
    """
    require_array("y", y)
    require_array("weight", weight)
    if jnp.shape(weight) != ():
        raise ValueError(f"weight has shape {jnp.shape(weight)}: expected one number, as this is one example")
    f = forward(network, params, x, precision)
    yhat = f.h[network.layers[-1].name]
    value, dyhat = _loss_and_adjoint(as_loss(loss), yhat, jnp.asarray(y))
    dyhat = scaled(dyhat, weight)
    return value, f, backward(network, params, f, dyhat, precision)


@partial(jax.tree_util.register_dataclass, data_fields=("h", "dz"), meta_fields=("network",))
@dataclass(frozen=True)
class FactoredGradient:
    """Every example's gradient, as the factors of equation (3): dW_ts of example b is the outer product dz[t][b] h[s][b]ᵀ.

    Memory is that of the activations, B (Σ widths), where the gradients themselves would take B (Σ parameters).

    Attributes:
        network: the wiring (static).
        h: h[s] of shape (b, width of s) for every source s, "x" among them.
        dz: dz[t] of shape (b, width of t) for every layer t.
    """

    network: Network
    h: dict[str, Array]
    dz: dict[str, Array]


def total(fg: FactoredGradient, weight: Float[Array, " b"] | None = None, precision: Precision = None) -> Params:
    """Sum the examples' gradients: dW_ts[t, s] = Σ_b c_b dz[b, t] h[b, s], db[t] = Σ_b c_b dz[b, t].

    Costs one product of (t, b) with (b, s) per edge, 2 B (parameters) flops, as the plain gradient does.

    Args:
        fg: the factored gradients of a batch.
        weight: c, one number for each example; all 1 by default.
        precision: of the contraction.

    Returns:
        a gradient shaped like the parameters.

    Raises:
        ValueError: `weight` is not one number for each example.
        TypeError: something else than a `FactoredGradient`.

    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1), bias=True)
    >>> _, fg = per_example(net, "huber")(init(net, jax.random.key(0)), jnp.ones((5, 2)), jnp.zeros((5, 1)))
    >>> total(fg)["h0"]["x"].shape
    (3, 2)
    """
    require_factored(fg)
    if weight is not None:
        require_weight(weight, next(iter(fg.dz.values())).shape[0])
    grads = {}
    for t in fg.network.layers:
        dz = fg.dz[t.name] if weight is None else scaled(fg.dz[t.name], jnp.asarray(weight)[:, None])
        grads[t.name] = {s: contract("bt,bs->ts", dz, fg.h[s], precision=precision) for s in t.sources}
        if t.bias:
            grads[t.name][BIAS] = contract("bt->t", dz)
    return grads


def per_example(network: Network, loss: LossLike, precision: Precision = None) -> Callable:
    """Return a function that computes every example's loss and, factored, every example's gradient, in one sweep.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        precision: of all products, as in `jax.lax.Precision`.

    Returns:
        (params, x (b, d), y (b, …)) → (values (b,), `FactoredGradient`). The readouts `total`, `norms`, `clip`, … take it.

    Raises:
        ValueError: shapes or dtypes that do not fit; the message says which and what fits.
        TypeError: something that is not an array where one is needed, a list say.

    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1))
    >>> params = init(net, jax.random.key(0))
    >>> values, fg = per_example(net, "half_squared_error")(params, jnp.ones((5, 2)), jnp.zeros((5, 1)))
    >>> values.shape, fg.dz["h0"].shape
    ((5,), (5, 3))
    """
    require_network(network, precision)
    loss = as_loss(loss)

    def values_and_factored(params, x, y):
        require_batch(network, params, x, y)
        return sweep_batch(params, x, y, network=network, loss=loss, precision=precision)[:2]

    return values_and_factored


# Compiled once for each network, loss and shape, however often `value_and_grad` or `per_example` is called.
@partial(jax.jit, static_argnames=("network", "loss", "precision"))
def sweep_batch(params, x, y, weight=1.0, *, network, loss, precision):
    """Sweep each example of a batch: losses (b,), the factored gradient of weight · L, and dL/dx (b, d)."""

    def one(x, y, weight):
        return sweep(network, loss, params, x, y, weight, precision)

    axis = batch_axis(network)
    x, y = (jnp.moveaxis(a, 0, axis) for a in (x, y))
    values, f, b = jax.vmap(one, in_axes=(axis, axis, 0 if jnp.ndim(weight) else None))(x, y, weight)
    sources = {s for t in network.layers for s in t.sources}
    h = {s: h_s for s, h_s in f.h.items() if s in sources}
    return values, FactoredGradient(network, h, b.dz), b.dh[INPUT]


def scaled(d: Array, weight: ArrayLike) -> Array:
    """`d` times the weight, multiplied in float32 at least and rounded once."""
    if isinstance(weight, float) and weight == 1:
        return d
    dtype = wide(d.dtype)
    return (d.astype(dtype) * jnp.asarray(weight, dtype)).astype(d.dtype)


def weighted_sum(values, c):
    """Σ_b c_b L_b in float32 at least, rounded once; c is one number, or one for each example."""
    dtype = wide(values.dtype)
    return jnp.sum(values.astype(dtype) * jnp.asarray(c, dtype)).astype(values.dtype)


def _activation(network, name):
    (layer,) = (t for t in network.layers if t.name == name)
    return as_activation(layer.activation)


def _loss_and_adjoint(loss, yhat, y):
    value, dyhat = loss.value(yhat, y), loss.derivative(yhat, y)
    if jnp.shape(value) != () or jnp.shape(dyhat) != yhat.shape:
        raise ValueError(
            f"the loss gives a value of shape {jnp.shape(value)} and dL/dyhat of shape {jnp.shape(dyhat)} for one example: "
            f"expected () and {yhat.shape}, yhat's own shape"
        )
    return value, dyhat


def require_batch(network: Network, params: Any, x: Any, y: Any, weight: Any = None) -> None:
    """Refuse a batch whose parts do not fit the wiring, or each other."""
    require_params(network, params)
    require_input(network, x, ndims=(2,))
    if x.shape[0] == 0:
        raise ValueError("x has no examples, shape (0, …): give at least one")
    require_array("y", y)
    if jnp.ndim(y) == 0 or y.shape[0] != x.shape[0]:
        raise ValueError(
            f"y has shape {jnp.shape(y)}, x has {x.shape}: give one target for each of the {x.shape[0]} examples"
        )
    if weight is not None:
        require_weight(weight, x.shape[0])


def require_weight(weight, examples: int) -> None:
    """Refuse example weights that are not one number for each example."""
    require_array("weight", weight)
    if jnp.shape(weight) != (examples,):
        raise ValueError(f"weight has shape {jnp.shape(weight)}, expected ({examples},): one number for each example")
    if jnp.issubdtype(jnp.result_type(weight), jnp.complexfloating):
        raise ValueError(f"weight has dtype {jnp.result_type(weight)}: expected real numbers")


def require_factored(fg: Any, name: str = "fg") -> None:
    """Refuse what is not the factored gradient of one batch."""
    if not isinstance(fg, FactoredGradient):
        raise TypeError(
            f"{name} is a {type(fg).__name__}: expected the FactoredGradient that per_example's function returns second"
        )
    width, batch = widths(fg.network), jnp.shape(next(iter(fg.dz.values())))[:1]
    for kind, arrays in (("h", fg.h), ("dz", fg.dz)):
        for node, a in arrays.items():
            if jnp.shape(a) != (*batch, width[node]):
                raise ValueError(
                    f"{name}.{kind}[{node!r}] has shape {jnp.shape(a)}, expected (b, {width[node]}), with one b for all: "
                    "for more axes take jax.vmap"
                )


def _require_values(network, f, dyhat) -> None:
    """Refuse values that are not those of one example of the network, and an adjoint not shaped like yhat."""
    if not isinstance(f, Forward):
        raise TypeError(f"f is a {type(f).__name__}: expected what jaxbackprop.forward returns for one example")
    width = widths(network)
    for kind, arrays in (("z", f.z), ("h", f.h)):
        found = {node: jnp.shape(a) for node, a in arrays.items()}
        wanted = {node: (n,) for node, n in width.items() if kind == "h" or node != INPUT}
        if found != wanted:
            raise ValueError(
                f"f.{kind} has shapes {found}, the network needs {wanted}: take forward of one example; vmap over a batch"
            )
    require_array("dyhat", dyhat)
    if jnp.shape(dyhat) != (width[network.layers[-1].name],):
        raise ValueError(
            f"dyhat has shape {jnp.shape(dyhat)}, yhat has {jnp.shape(f.h[network.layers[-1].name])}: give one dL/dyhat "
            "for each output"
        )
