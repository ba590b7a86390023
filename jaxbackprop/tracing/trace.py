"""The derivation with its numbers in: every value and every adjoint of ONE example, by name, beside `jax.grad`'s.

A row for each quantity, in the order of the derivation: forward z, h, …, L; backward dyhat, dz, dh, … (equations (1) and
(2) of `backprop`), then each dW and db (equation (3)). The values are those of `backprop.sweep`. `jax.grad` differentiates
the same network written plainly once more, with a zero added to every z and every h:

    z_t = Σ_s W_ts h_s + b_t + 0_z        h_t = g_t(z_t) + 0_h        ∂L/∂0_z = dz_t,  ∂L/∂0_h = dh_t

so that it gives each node's adjoint without a word of ours. All of it is float64, that learners may see 1.2 and
not 1.2000000477.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jaxbackprop.activations import as_activation
from jaxbackprop.backprop import sweep
from jaxbackprop.losses import Loss, LossLike, as_loss, names_a_class
from jaxbackprop.network import BIAS, INPUT, Network
from jaxbackprop.refusals import are_like, is_network
from jaxbackprop.tracing import picture
from jaxbackprop.tracing.render import Worked
from jaxbackprop.tracing.rows import Found, Nodes, Weights, prediction_name, rows_of
from jaxbackprop.tracing.symbols import all_single, names_of
from jaxbackprop.words import FLOATING, fits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Worked):
    """What `trace` found: the rows, the arrays that they show, and ways to show them.

    Attributes:
        title, given, rows, digits: those of `Worked`.
        network: the wiring.
        loss: its name, or "loss" for one of your own without a name.
        params, x, y: as given, in float64 (a class stays an integer).
        value: L.
        z, h, dz, dh: what `backprop.sweep` found, by layer.
        gradient: dW and db, shaped like the parameters.
    """

    network: Network
    loss: str
    params: Weights
    x: np.ndarray
    y: np.ndarray
    value: float
    z: Nodes
    h: Nodes
    dz: Nodes
    dh: Nodes
    gradient: Weights

    def to_dict(self) -> dict[str, Any]:
        """Return the rows in plain Python, ready for `json.dumps`."""
        params = {t: {s: w.tolist() for s, w in sources.items()} for t, sources in self.params.items()}
        given = {"network": str(self.network), "loss": self.loss, "x": self.x.tolist(), "y": self.y.tolist()}
        return given | {"params": params, "rows": super().to_dict()["rows"]}

    def figure(self) -> Figure:
        """Draw the network left to right: values above each node, adjoints below, weights and their gradients on the edges.

        Needs matplotlib, which `pip install 'jaxbackprop[cli]'` brings; `figure.savefig("trace.svg")` writes it.
        """
        return picture.draw(self)


def trace(
    network: Network,
    loss: LossLike,
    params: Mapping[str, Mapping[str, ArrayLike]],
    x: ArrayLike,
    y: ArrayLike,
    digits: int | None = None,
) -> Trace:
    """Work one example through: every value and every adjoint, with formula, numbers, and `jax.grad`'s value beside it.

    The wiring of the exercise, `skip_mlp` with two hidden layers and no bias, gets the exercise's names: z0, h0, z1, h1,
    z2, w0 … w3. In any other the edge s → t is W_t,s; the biases of layers that are counted are b0, b1, …, else b_t.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, a `Loss`, or a function or pair (value, derivative) of your own.
        params: as `init` gives them, of any floating-point dtype; computed in float64.
        x: one example, (d,), or a number where the network has one input.
        y: its target.
        digits: how many significant digits are shown; 6 where every layer has one unit, 4 otherwise.

    Returns:
        `Trace`: `.rows`, `.text()`, `.markdown()`, `.latex()`, `.to_dict()`, `.figure()`, and a row by its name.

    Raises:
        ValueError: parameters, an example or a target that do not fit the wiring, or a class that does not exist; fewer
            than 1 or more than 17 digits.
        TypeError: no network, or something that is not made of real numbers.

    >>> from jaxbackprop.network import skip_mlp
    >>> net = skip_mlp((1, 1, 1, 1))
    >>> params = {"h0": {"x": 0.8}, "h1": {"h0": 1.3}, "yhat": {"h1": -0.7, "h0": 0.45}}
    >>> t = trace(net, "half_squared_error", jax.tree.map(lambda w: jnp.full((1, 1), w), params), 1.5, 2.0)
    >>> print(t["dh0"].formula, "=", t["dh0"].numbers)
    dh0 = w1ᵀ dz1 + w3ᵀ dz2 = 1.3·1.7864 + 0.45·(−2.552)
    >>> t.difference < 1e-12
    True
    """
    is_network(network)
    if digits is None:
        digits = 6 if all_single(network) else 4
    if isinstance(digits, bool) or not isinstance(digits, Integral) or not 1 <= digits <= 17:
        raise ValueError(f"digits is {digits!r}: expected 1 to 17, as many as a float64 holds")
    are_like("params", params, network.shapes)
    loss = as_loss(loss)
    weights: Weights = {t: {s: _float64(w) for s, w in sources.items()} for t, sources in params.items()}
    x, y = np.atleast_1d(_float64(_numbers("x", x))), _numbers("y", y)
    fits({"d": network.inputs}, x=(x, "d", FLOATING))
    _require_class(network, loss, y)
    y = _float64(y) if jnp.issubdtype(y.dtype, jnp.floating) else y
    with jax.enable_x64(True):
        value, f, b = jax.tree.map(np.asarray, _sweep(weights, x, y, network=network, loss=loss))
        gradient, taps = jax.tree.map(np.asarray, _jax_grad(weights, _taps(network), x, y, network=network, loss=loss))
    names = names_of(network)
    by_hand: Weights = {t.name: {} for t in network.layers}
    with np.errstate(invalid="ignore", over="ignore"):  # infinity and NaN are shown as what they are
        rows = rows_of(Found(network, names, loss, weights, y, value, f.z, f.h, b.dz, b.dh, gradient, taps, digits))
        for t, s in names.w:
            by_hand[t][s] = b.dz[t] if s == BIAS else np.outer(b.dz[t], f.h[s])
    given = {"x": x, "y": y} | {name: weights[t][s] for (t, s), name in names.w.items()}
    shown = (_title(network, loss, y), given, rows, digits, network, loss.name or "loss")
    return Trace(*shown, weights, x, y, float(value), f.z, f.h, b.dz, b.dh, by_hand)


def _title(network: Network, loss: Loss, y: np.ndarray) -> str:
    """The wiring, and where a loss makes a prediction of the output, which letter is what."""
    if loss.name not in ("softmax_cross_entropy", "sigmoid_binary_cross_entropy"):
        return str(network)
    target = (
        f"y the target: 1 for class {y}, 0 for the others" if y.ndim == 0 and loss.name[:2] == "so" else "y the target"
    )
    return f"{network}; {prediction_name(network)} is the prediction, {target}"


def _numbers(name: str, given) -> np.ndarray:
    """The given number, array or list as an array, if it is one of real numbers."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # traced by jax.jit; lists of unequal lengths
        raise TypeError(f"{name} is a {type(given).__name__} that makes no array: expected real numbers") from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise TypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    return array


def _require_class(network: Network, loss: Loss, y: np.ndarray) -> None:
    k = network.layers[-1].width
    if names_a_class(loss, y) and y.ndim == 0 and not 0 <= y < k:
        raise ValueError(f"y is class {y}, the network has {k} outputs: expected 0 to {k - 1}")


def _float64(value) -> np.ndarray:
    return np.asarray(value).astype(np.float64)


# What is computed: once by the hand-derived sweep, once by jax.grad.


@partial(jax.jit, static_argnames=("network", "loss"))
def _sweep(params, x, y, *, network, loss):
    return sweep(network, loss, params, x, y)


@partial(jax.jit, static_argnames=("network", "loss"))
def _jax_grad(params, taps, x, y, *, network, loss):
    return jax.grad(_plain_loss, argnums=(0, 1))(params, taps, x, y, network, loss)


def _plain_loss(params, taps, x, y, network, loss):
    """The network once more, plainly, a zero added to every z and every h."""
    h = {INPUT: x}
    for t in network.layers:
        z = taps[t.name]["z"] + (params[t.name][BIAS] if t.bias else 0)
        for s in t.sources:
            z = z + params[t.name][s] @ h[s]
        h[t.name] = as_activation(t.activation).value(z) + taps[t.name]["h"]
    return loss.value(h[network.layers[-1].name], y)


def _taps(network):
    return {t.name: {"z": np.zeros(t.width), "h": np.zeros(t.width)} for t in network.layers}
