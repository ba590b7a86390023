"""`factored` with the modules of other libraries, and with a hand-derived network inside, as a user would write it."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 4)), "float32")  # b, t, d
Y = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5, 3)), "float32")


def agrees(loss, params, *batch):
    """Norms, and the clipped sum, are those of vmap(jax.grad); and nothing large was formed on the way."""
    G = jax.vmap(jax.grad(loss), (None, *[0] * len(batch)))(params, *batch)
    matrix = np.concatenate([np.asarray(g).reshape(6, -1) for g in jax.tree.leaves(G)], axis=1)
    norms = np.linalg.norm(matrix, axis=1)
    bound = float(np.median(norms))
    fg = jax.jit(jbp.factored(loss))(params, *batch)[1]
    np.testing.assert_allclose(jbp.norms(fg), norms, rtol=1e-5)
    clipped = jbp.total(jbp.clip(fg, bound))
    assert jax.tree.structure(clipped) == jax.tree.structure(params)
    found = np.concatenate([np.ravel(g) for g in jax.tree.leaves(clipped)])
    wanted = np.minimum(1, bound / norms) @ matrix
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.max(np.abs(wanted)))
    rows = jbp.explain(loss)(params, *(a[0] for a in batch)).rows
    assert not [row for row in rows if row.use.startswith("formed")]
    assert "outer" in [row.use for row in rows]


def test_flax_nnx_with_dropout():
    nnx = importlib.import_module("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(4, 8, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)
            self.out = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x, key):
            return self.out(self.dropout(jnp.tanh(self.norm(self.hidden(x))), rngs=key))

    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, x, y, key):
        return jnp.mean((nnx.merge(graph, params, rest)(x, key) - y) ** 2)

    agrees(loss, params, X, Y, jax.random.split(jax.random.key(0), 6))


def test_flax_linen_with_dropout():
    nn = importlib.import_module("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5, deterministic=False)(nn.gelu(nn.Dense(8)(x)))
            return nn.Dense(3)(nn.Conv(8, (3,))(x))

    model = Model()
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X[0])

    def loss(params, x, y, key):
        return jnp.mean((model.apply({"params": params}, x, rngs={"dropout": key}) - y) ** 2)

    agrees(loss, variables["params"], X, Y, jax.random.split(jax.random.key(0), 6))


def test_equinox():
    eqx = importlib.import_module("equinox")
    model = eqx.nn.MLP(4, 3, 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x, y):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - y) ** 2)

    agrees(loss, params, X, Y)


NETWORK = jbp.mlp((4, 6, 3), "tanh", bias=True)


def network_loss(apply):
    def loss(params, x, y):
        h = jnp.tanh(x @ params["before"])
        return jnp.mean((apply(params["network"], h) - y) ** 2)

    params = {"before": jnp.eye(4) + 0.1, "network": jbp.init(NETWORK, jax.random.key(0))}
    return loss, params


APPLIED = {
    "the rows of an example as a batch": jbp.apply(NETWORK),
    "vmapped over them": lambda params, x: jax.vmap(functools.partial(jbp.apply(NETWORK), params))(x),
}


@pytest.mark.parametrize("name", APPLIED)
def test_a_hand_derived_network_inside_a_loss(name):
    """Its rule is a custom derivative, whose inside is not followed: its parameters' gradients are formed, and right."""
    loss, params = network_loss(APPLIED[name])
    G = jax.vmap(jax.grad(loss), (None, 0, 0))(params, X, Y)
    _, fg = jbp.factored(loss)(params, X, Y)
    for found, wanted in zip(jax.tree.leaves(jbp.materialise(fg)), jax.tree.leaves(G), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    matrix = np.concatenate([np.asarray(g).reshape(6, -1) for g in jax.tree.leaves(G)], axis=1)
    np.testing.assert_allclose(jbp.norms(fg), np.linalg.norm(matrix, axis=1), rtol=1e-5)
    uses = {row.parameter: row.use for row in jbp.explain(loss)(params, X[0], Y[0]).rows}
    assert uses.pop("before") == "outer"
    assert set(uses.values()) == {"formed (custom_vjp_call)"}


def test_a_hand_derived_network_takes_examples_or_a_batch_and_says_so():
    params = jbp.init(NETWORK, jax.random.key(0))
    with pytest.raises(ValueError, match=r"x has shape \(6, 5, 4\), expected \(4,\) or \(b, 4\)"):
        jbp.apply(NETWORK)(params, X)
    assert jax.vmap(functools.partial(jbp.apply(NETWORK), params))(X).shape == (6, 5, 3)
