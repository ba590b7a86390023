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
Σ_b c_b dW_ts,b = Σ_b (c_b dz_t,b) h_s,bᵀ is one matrix product, and every other readout is another contraction of the same
pair (h, dz): factors.py, readouts.py.
The sweep is therefore written for one example and vmapped, and equation (3) is contracted once per edge, over the batch.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxbackprop.arithmetic import Precision, contract, scaled
from jaxbackprop.doors import asks, bare, is_batch_of, is_example, is_pass, is_swept
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.model import Backward, Forward, Model, Sweep, batch_axis, uses_of
from jaxbackprop.network import BIAS, INPUT, Network, Params
from jaxbackprop.refusals import is_network


@asks(is_example)
def forward(network: Network, params: Params, x: Float[Array, " d"], precision: Precision = None) -> Forward:
    """z_t = Σ_s W_ts h_s + b_t,  h_t = g_t(z_t): every value of one example, from x to yhat. For a batch, `jax.vmap` over x.

    A ValueError says which shape or dtype does not fit, a TypeError what is no network, no parameters or no array.

    >>> f = forward(net, params, x[0])
    >>> f.z["h0"].shape, f.h["yhat"].shape
    ((3,), (1,))
    """
    z, h = {}, {INPUT: x}
    for t in network.layers:
        paths = [contract("ts,s->t", params[t.name][s], h[s], precision=precision) for s in t.sources]
        z[t.name] = reduce(add, paths + ([params[t.name][BIAS]] if t.bias else []))
        h[t.name] = t.g.value(z[t.name])
    return Forward(z, h)


@asks(is_pass)
def backward(
    network: Network, params: Params, f: Forward, dyhat: Float[Array, " k"], precision: Precision = None
) -> Backward:
    """(1) dh_s = Σ_t W_tsᵀ dz_t  and  (2) dz_t = dh_t · g_t'(z_t): every adjoint of one example, from yhat back to x.

    f is what `forward` returned, dyhat is dL/dyhat. A ValueError says what does not fit, a TypeError what is none of these.

    >>> b = backward(net, params, forward(net, params, x[0]), dyhat=jnp.ones(1))
    >>> b.dz["h0"].shape, b.dh["h0"].shape, b.dh["x"].shape
    ((3,), (3,), (2,))
    """
    dz, dh = {}, {network.output: dyhat}
    for t in reversed(network.layers):  # all that read t are done
        dh.setdefault(t.name, jnp.zeros_like(f.h[t.name]))  # where nothing reads it
        dz[t.name] = dh[t.name] * t.g.derivative(f.z[t.name])  # (2)
        for s in t.sources:  # (1): each path adds its part
            path = contract("ts,t->s", params[t.name][s], dz[t.name], precision=precision)
            dh[s] = dh[s] + path if s in dh else path
    return Backward(dz, dh)


@asks(lambda network, loss, *example, **more: is_swept(network, as_loss(loss), *example, **more))
def sweep(
    network: Network,
    loss: LossLike,
    params: Params,
    x: Float[Array, " d"],
    y: Num[Array, "*k"],
    weight: Float[Array, ""] | float = 1.0,
    precision: Precision = None,
) -> tuple[Float[Array, ""], Forward, Backward]:
    """Run forward and back for one example: the loss, every value, every adjoint.

    Adjoints are of weight · L: the sweep is linear in dyhat, so that a weight there is a weight on all that follows.
    A ValueError says what does not fit, or which name is unknown, a TypeError what is no network, loss or array.

    >>> value, f, b = sweep(net, "half_squared_error", params, x[0], jnp.zeros(1))
    >>> bool(b.dh["yhat"] == f.h["yhat"])  # yhat − y with y = 0
    True
    """
    loss, y = as_loss(loss), jnp.asarray(y)
    f = bare(forward)(network, params, x, precision)
    yhat = f.h[network.output]
    value, dyhat = loss.value(yhat, y), loss.derivative(yhat, y)
    return value, f, bare(backward)(network, params, f, scaled(dyhat, weight), precision)


@partial(jax.jit, static_argnums=0)
def sweep_batch(model: Model, params, x, y, weight=1.0):
    """Sweep each example of a batch: losses (b,), the factored gradient of weight · L, and dL/dx (b, d)."""

    def one(x, y, weight):
        return bare(sweep)(model.network, model.loss, params, x, y, weight, model.precision)

    axis = batch_axis(model.network)
    x, y = (jnp.moveaxis(a, 0, axis) for a in (x, y))
    values, f, b = jax.vmap(one, in_axes=(axis, axis, 0 if jnp.ndim(weight) else None))(x, y, weight)
    return values, factored_by(model.network, f, b), b.dh[INPUT]


def factored_by(network: Network, f: Forward, b: Backward) -> FactoredGradient:
    """(3) dW_ts = dz_t h_sᵀ, db_t = dz_t: what a batch's passes leave, as the factors of every example's gradient."""
    uses, tree, shapes = uses_of(network)
    return FactoredGradient({use.h: f.h[use.h] for use in uses if use.h}, b.dz, uses, tree, shapes)


def per_example(network: Network, loss: LossLike, precision: Precision = None) -> Sweep:
    """Return a function that computes every example's loss and, factored, every example's gradient, in one sweep.

    loss is a name from `losses.LOSSES`, a `Loss`, or a pair (value, derivative); precision is that of all products, as in
    `jax.lax.Precision`. Returns a `Sweep`: (params, x (b, d), y (b, …), weight=None) → (values (b,), `FactoredGradient`).
    A ValueError says what does not fit, a TypeError what is no network, loss or array. Numbers are not looked at, as
    `value_and_grad` says: `fit` and `evaluate` refuse targets that are no probabilities.

    >>> values, fg = per_example(net, "half_squared_error")(params, x, y)
    >>> values.shape, fg.dz["h0"].shape
    ((5,), (5, 3))
    """
    is_network(network, precision)
    return Sweep(Model(network, as_loss(loss), precision), is_batch_of, _swept)


def _swept(model, *batch, weight=None):
    return sweep_batch(model, *batch, *(() if weight is None else (weight,)))[:2]
