"""The oracle: the same networks written once more, plainly, and differentiated by `jax.grad` alone.

Nothing here calls `jaxbackprop.backprop`. Activations and losses are those of jax.nn and optax. A zero added to every z
and every h ("tap") makes `jax.grad` give the adjoint of each node as well as of each parameter.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: jnp.where(z >= 0, z, 0),
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.01),
    "elu": jax.nn.elu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
LOSSES = {
    "half_squared_error": lambda yhat, y: optax.l2_loss(yhat, y.reshape(yhat.shape)).sum(),
    "huber": lambda yhat, y: optax.huber_loss(yhat, y.reshape(yhat.shape), delta=1.0).sum(),
    "softmax_cross_entropy": lambda yhat, y: (
        optax.softmax_cross_entropy(yhat, y) if y.ndim else optax.softmax_cross_entropy_with_integer_labels(yhat, y)
    ),
    "sigmoid_binary_cross_entropy": lambda yhat, y: optax.sigmoid_binary_cross_entropy(
        yhat, y.reshape(yhat.shape)
    ).sum(),
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}


def taps(network, dtype):
    """A zero for every z and h, and for x."""
    nodes = {layer.name: jnp.zeros(layer.width, dtype) for layer in network.layers}
    return {"z": nodes, "h": {**nodes, "x": jnp.zeros(network.inputs, dtype)}}


def loss(network, name, params, taps, x, y):
    """The loss of one example."""
    h = {"x": x + taps["h"]["x"]}
    for layer in network.layers:
        z = taps["z"][layer.name]
        for source in layer.sources:
            z = z + params[layer.name][source] @ h[source]
        if layer.bias:
            z = z + params[layer.name]["bias"]
        h[layer.name] = ACTIVATIONS[layer.activation](z) + taps["h"][layer.name]
    return LOSSES[name](h[network.layers[-1].name], y)


def per_example(network, name, params, x, y):
    """For each example its loss, its gradient with respect to params, and with respect to every node."""
    value_and_grad = jax.value_and_grad(loss, argnums=(2, 3))
    zeros = taps(network, x.dtype)
    return jax.jit(jax.vmap(lambda x, y: value_and_grad(network, name, params, zeros, x, y)))(x, y)


def assert_close(given, expected, tolerance=None):
    """Each array within the tolerance of its dtype, scaled by the largest entry of that array; NaN never passes."""
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    for (path, g), e in zip(jax.tree_util.tree_leaves_with_path(given), jax.tree.leaves(expected), strict=True):
        assert g.shape == e.shape, (path, g.shape, e.shape)
        assert g.dtype == e.dtype, (path, g.dtype, e.dtype)
        g64, e64 = np.asarray(g, np.float64), np.asarray(e, np.float64)
        limit = (tolerance or TOLERANCE.get(str(g.dtype), 0)) * max(
            np.max(np.abs(e64), initial=0), np.finfo(np.float32).tiny
        )
        error = np.max(np.abs(g64 - e64), initial=0)
        assert error <= limit, f"{jax.tree_util.keystr(path)}: off by {error:.3g}, allowed {limit:.3g}"
