"""`factored` of random programs, and of one MLP in every form that it is called in, beside vmap(jax.grad); in float64."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_factored import close

import jaxbackprop as jbp

T, D, B = 3, 4, 3  # positions and their width, examples


class Part(NamedTuple):
    """One step of a random program: what it does, with which matrices, turned or not, and in what call."""

    kind: str
    matrices: tuple[int, int]
    turned: bool
    call: str


PARTS = st.builds(
    Part,
    st.sampled_from(
        ["matmul", "matmul", "conv", "lookup", "rows", "bias", "scale", "tanh", "layers", "recurrent", "cond"]
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.booleans(),
    st.sampled_from(["plain", "jit", "checkpoint"]),
)


def drawn(seed=0):
    """Parameters of all parts, and a batch."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2)  # noqa: E731
    params = {
        "matrices": [normal(D, D), normal(D, D)], "stack": normal(2, D, D), "kernel": normal(3, D, D),
        "table": normal(5, D), "bias": normal(D), "scale": 1 + normal(D),
    }  # fmt: skip
    return params, (normal(B, T, D), jnp.asarray(rng.integers(0, 5, size=(B, T))), normal(B, T, D))


def matrix(params, i, turned):
    """One of four: two parameters, and two that lie in the stack; so that the same is often read twice."""
    W = params["matrices"][i] if i < 2 else params["stack"][i - 2]
    return W.T if turned else W


def taken(part: Part, params, h, ids):
    W, V = (matrix(params, i, part.turned) for i in part.matrices)
    if part.kind == "matmul":
        return h @ W
    if part.kind == "conv":
        return jax.lax.conv_general_dilated(
            h[None], params["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )[0]
    if part.kind == "lookup":
        return h + params["table"][ids]
    if part.kind == "rows":
        return h * W[ids % D]
    if part.kind == "bias":
        return h + params["bias"]
    if part.kind == "scale":
        return h * params["scale"]
    if part.kind == "tanh":
        return jnp.tanh(h)
    if part.kind == "layers":
        return jax.lax.scan(lambda h, W: (jnp.tanh(h @ W), None), h, params["stack"], reverse=part.turned)[0]
    if part.kind == "recurrent":
        return jax.lax.scan(lambda s, x: (jnp.tanh(W @ s + x),) * 2, jnp.zeros(D), h)[1]
    return jax.lax.cond(h[0, 0] > 0, lambda h: jnp.sin(h @ W), lambda h: h @ V, h)


CALLS = {"plain": lambda f: f, "jit": jax.jit, "checkpoint": jax.checkpoint}


def loss_of(parts):
    def loss(params, x, ids, y):
        h = x
        for part in parts:
            h = CALLS[part.call](partial(taken, part))(params, h, ids)
        return jnp.sum(jnp.sin(h) * y)

    return loss


def agrees(given, expected, tolerance=1e-10):
    """Each leaf within its largest entry times the tolerance."""
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    jax.tree.map(partial(close, tolerance=tolerance), given, expected)


@settings(max_examples=14, derandomize=True, deadline=None)
@given(st.lists(PARTS, min_size=3, max_size=6), st.integers(0, 2**16))
def test_random_programs(parts, seed):
    with jax.enable_x64(True):
        params, batch = drawn(seed)
        loss, weight = loss_of(parts), jnp.array([0.5, -1.0, 2.0])

        def ours(params, batch):
            fg = jbp.factored(loss)(params, *batch)[1]
            return jbp.materialise(fg), jbp.total(fg, weight), jbp.norms(fg)

        def plain(params, batch):
            G = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(params, *batch)
            squares = sum(jnp.sum(g.reshape(B, -1) ** 2, axis=1) for g in jax.tree.leaves(G))
            return G, jax.tree.map(lambda g: jnp.tensordot(weight, g, 1), G), jnp.sqrt(squares)

        agrees(jax.jit(ours)(params, batch), jax.jit(plain)(params, batch))
        # every part is followed: were all formed, the comparison would hold as well
        rows = jbp.explain(loss)(params, *(a[0] for a in batch)).rows
        assert not [row.use for row in rows if row.use.startswith("formed")]
        multiplied = {"matmul", "recurrent", "cond", "layers"} & {part.kind for part in parts}
        assert not multiplied or "outer" in {row.use for row in rows}


# ---- one MLP


NETWORK = jbp.mlp((3, 5, 2), "tanh", bias=True)


def mlp_loss(params, x, y):
    h = jnp.tanh(params["h0"]["x"] @ x + params["h0"]["bias"])
    yhat = params["yhat"]["h0"] @ h + params["yhat"]["bias"]
    return jnp.sum((yhat - y) ** 2) / 2


@pytest.fixture
def mlp():
    """Parameters, x and y in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        params = jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=shape)), NETWORK.shapes, is_leaf=lambda s: isinstance(s, tuple)
        )
        yield params, jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=(7, 2)))


def gradients_of(params, x, y):
    return jax.vmap(jax.grad(mlp_loss), (None, 0, 0))(params, x, y)


def test_an_mlp_by_the_hand_derived_sweep_and_as_any_loss(mlp):
    values, fg = jbp.factored(mlp_loss)(*mlp)
    wanted_values, wanted = jbp.per_example(NETWORK, "half_squared_error")(*mlp)
    assert fg.uses != wanted.uses  # two ways
    weight = jnp.linspace(0.0, 2.0, 7)
    bound = float(jnp.median(jbp.norms(wanted)))
    direction = jax.tree.map(jnp.cos, mlp[0])
    agrees(values, wanted_values, 1e-12)
    for readout in (
        jbp.materialise,
        jbp.norms,
        jbp.readouts.squared_norms,
        jbp.gram,
        jbp.moments,
        jbp.noise_scale,
        lambda fg: jbp.moments(fg, weight),
        lambda fg: jbp.total(fg, weight),
        lambda fg: jbp.inner(fg, direction),
        lambda fg: jbp.materialise(jbp.clip(fg, bound)),
        lambda fg: jbp.materialise(jbp.clip(fg, bound, per_layer=True)),
        lambda fg: jbp.materialise(jbp.compact(fg)),
    ):
        agrees(jax.tree.map(jnp.asarray, readout(fg)), jax.tree.map(jnp.asarray, readout(wanted)), 1e-12)
    agrees(jbp.gram(fg, wanted), jbp.gram(wanted), 1e-12)  # one beside the other


def test_values_and_factors_leave_a_compiled_function(mlp):
    run = jbp.factored(mlp_loss)
    values, fg = jax.jit(run)(*mlp)
    agrees(values, jax.vmap(mlp_loss, (None, 0, 0))(*mlp), 1e-14)
    agrees(jax.jit(jbp.norms)(fg), jbp.norms(run(*mlp)[1]), 1e-14)
    agrees(jbp.materialise(fg), gradients_of(*mlp), 1e-14)


def test_a_weight_scales_the_gradients_and_not_the_values(mlp):
    weight = jnp.array([0.0, 1.0, -2.0, 0.5, 3.0, 1.0, 1e-3])
    values, fg = jbp.factored(mlp_loss)(*mlp)
    same, weighted = jbp.factored(mlp_loss)(*mlp, weight=weight)
    agrees(same, values, 0)
    scaled = jax.tree.map(lambda g: g * weight.reshape(-1, *[1] * (g.ndim - 1)), jbp.materialise(fg))
    agrees(jbp.materialise(weighted), scaled, 1e-14)
    agrees(jbp.total(weighted), jbp.total(fg, weight), 1e-14)


def test_aux_comes_out_for_each_example_as_it_is_nested(mlp):
    def with_aux(params, x, y):
        value = mlp_loss(params, x, y)
        return value, {"twice": 2 * value, "x": (x, jnp.argmax(x))}

    (values, aux), fg = jbp.factored(with_aux, has_aux=True)(*mlp)
    wanted_values, wanted = jax.vmap(with_aux, (None, 0, 0))(*mlp)
    agrees((values, aux), (wanted_values, wanted), 1e-14)
    assert aux["x"][1].dtype == wanted["x"][1].dtype
    agrees(jbp.materialise(fg), gradients_of(*mlp), 1e-14)


@pytest.mark.parametrize("argnums", [1, -2, (1,), (1, 2), (2, 1), (-1, 1), (0,)])
def test_argnums_are_those_of_jax(mlp, argnums):
    params, x, _ = mlp

    def loss(x, first, second):
        return jnp.sum(jnp.sin(second["h0"] @ jnp.tanh(first["x"] @ x + first["bias"]) + second["bias"]))

    args = x, params["h0"], params["yhat"]
    trained = argnums if isinstance(argnums, tuple) else (argnums,)
    others = [i for i in range(3) if i not in [j % 3 for j in trained]]
    if 0 not in others:  # x itself is trained: then something else is the batch
        args, in_axes = (x[0], *args[1:]), (None, 0)
        args = args[0], args[1], jax.tree.map(lambda a: jnp.stack([a, 2 * a]), args[2])
    else:
        in_axes = tuple(0 if i == 0 else None for i in others)
    _, fg = jbp.factored(loss, argnums, in_axes)(*args)
    axes = [None] * 3
    for i, axis in zip(others, in_axes, strict=True):
        axes[i] = axis
    agrees(jbp.materialise(fg), jax.vmap(jax.grad(loss, argnums), tuple(axes))(*args), 1e-12)


def test_in_axes_are_those_of_vmap(mlp):
    params, x, y = mlp

    def loss(params, data, scale):
        return scale["a"] * mlp_loss(params, data["x"], data["y"]) + jnp.sum(scale["b"])

    wanted = jax.tree.map(lambda g: 3 * g, gradients_of(params, x, y))
    first, last = {"x": x, "y": y}, {"x": x.T, "y": y}
    shared, own = {"a": jnp.asarray(3.0), "b": jnp.ones(2)}, {"a": jnp.full(7, 3.0), "b": jnp.ones((2, 7))}
    for in_axes, data, scale in (
        ((0, None), first, shared),
        (({"x": 1, "y": 0}, None), last, shared),
        (({"x": -1, "y": 0}, {"a": 0, "b": 1}), last, own),
        (({"x": 1, "y": 0}, {"a": 0, "b": None}), last, {"a": own["a"], "b": shared["b"]}),
    ):
        values, fg = jbp.factored(loss, in_axes=in_axes)(params, data, scale)
        agrees(jbp.materialise(fg), wanted, 1e-12)
        agrees(values, jax.vmap(loss, (None, *in_axes))(params, data, scale), 1e-12)
        agrees(jbp.total(fg), jax.tree.map(lambda g: g.sum(0), wanted), 1e-12)


def test_each_example_has_its_own_key(mlp):
    params, x, y = mlp

    def loss(params, x, y, key):
        h = jnp.tanh(params["h0"]["x"] @ x + params["h0"]["bias"])
        h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0)
        return jnp.sum((params["yhat"]["h0"] @ h + params["yhat"]["bias"] - y) ** 2)

    for keys in (jax.random.split(jax.random.key(0), 7), jax.random.split(jax.random.PRNGKey(0), 7)):
        _, fg = jax.jit(jbp.factored(loss))(params, x, y, keys)
        wanted = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(params, x, y, keys)
        agrees(jbp.materialise(fg), wanted, 1e-12)
        masks = [tuple(row) for row in np.asarray(fg.h["yhat/h0"] != 0)]
        assert len(set(masks)) > 1  # not one mask for all


def clipped_sum(fg):
    return jbp.total(jbp.clip(fg, 1.0))


@pytest.mark.parametrize("tile", [3, 10])
def test_streamed_it_is_the_whole(mlp, tile):
    weight = jnp.linspace(0.1, 2, 7)
    sweep = jbp.factored(mlp_loss)
    for more in ({}, {"weight": weight}):
        value, found = jbp.stream(sweep, clipped_sum, tile=tile)(*mlp, **more)
        values, fg = sweep(*mlp, **more)
        agrees(found, clipped_sum(fg), 1e-12)
        assert float(value) == pytest.approx(float(jnp.dot(values, more.get("weight", jnp.ones(7)))), rel=1e-12)


def test_noise_scale_is_that_of_the_gradients(mlp):
    found = jbp.noise_scale(jbp.factored(mlp_loss)(*mlp)[1])
    G = np.concatenate([np.asarray(g).reshape(7, -1) for g in jax.tree.leaves(gradients_of(*mlp))], axis=1)
    trace = G.var(axis=0, ddof=1).sum()
    assert float(found.trace) == pytest.approx(trace, rel=1e-12)
    assert float(found.squared_norm) == pytest.approx(np.sum(G.mean(0) ** 2) - trace / 7, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_matrices_with_an_axis_of_one(shape):
    """A leaf whose numbers have no axis to cut once crashed in `total`."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        W, x = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(3, 2, shape[0])))
        loss = lambda w, x: jnp.sum(jnp.sin(x @ w))  # noqa: E731
        _, fg = jbp.factored(loss)(W, x)
        wanted = jax.vmap(jax.grad(loss), (None, 0))(W, x)
        agrees(jbp.materialise(fg), wanted, 1e-12)
        agrees(jbp.total(fg), wanted.sum(0), 1e-12)
        agrees(jbp.norms(fg), jnp.linalg.norm(wanted.reshape(3, -1), axis=1), 1e-12)


def test_a_part_without_numbers():
    loss = lambda w, x: jnp.sum(w[:0] @ x) + jnp.sum(jnp.sin(w @ x))  # noqa: E731
    W, x = jnp.ones((3, 4)), jnp.arange(8.0).reshape(2, 4)
    agrees(jbp.materialise(jbp.factored(loss)(W, x)[1]), jax.vmap(jax.grad(loss), (None, 0))(W, x), 1e-6)


def dense(params, x, y):
    return 0.5 * jnp.sum((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def fitted(gradient, **more):
    """A model that is no network, trained on two epochs of 24 examples, in float64."""
    with jax.enable_x64(True):
        return _fitted(gradient, **more)


def _fitted(gradient, **more):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 4))), "v": jnp.asarray(rng.normal(size=4))}
    data = jnp.asarray(rng.normal(size=(24, 3))), jnp.asarray(rng.normal(size=24))
    given = {"epochs": 2, "batch_size": 10, "params": params, "gradient": gradient, "validation": data} | more
    return jbp.fit(jbp.factored(dense), None, optax.sgd(0.1), data, **given)


def test_fit_takes_any_model_and_both_gradients_go_the_same_way():
    (one, rows), (other, _) = (fitted(how, key=jax.random.key(0)) for how in ("hand", "jax.grad"))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["validation_loss"] > 0


def test_private_training_of_any_model_clips_and_hides():
    quiet, _ = fitted(jbp.private_gradient(1e-9, 0.0))
    first = fitted("hand", key=jax.random.key(0), epochs=1, batch_size=24)[0]
    start = np.random.default_rng(0).normal(size=(3, 4))
    assert np.max(np.abs(np.asarray(quiet.params["w"]) - start)) < 1e-8  # every gradient is at most 1e-9
    assert np.max(np.abs(np.asarray(first.params["w"]) - start)) > 1e-3
    noisy = [fitted(jbp.private_gradient(1e-3, 1e3))[0].params["w"] for _ in range(2)]
    assert np.max(np.abs(noisy[0] - noisy[1])) > 1e-3  # of two secrets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": None}, "params is None, and a Sweep does not say how to draw them"),
        ({"params": {"w": jnp.full((3, 4), jnp.nan), "v": jnp.ones(4)}}, r"params\['w'\] holds NaN or infinity"),
    ],
)
def test_fit_of_a_sweep_refuses_what_it_cannot_start_from(change, message):
    with pytest.raises(ValueError, match=message):
        fitted("hand", key=jax.random.key(0), **change)


def test_what_has_aux_or_another_order_is_refused_where_it_cannot_serve():
    with_aux = jbp.factored(lambda p, x: (jnp.sum(p * x), x), has_aux=True)
    with pytest.raises(ValueError, match="the sweep gives aux beside the losses, which no sum keeps"):
        jbp.stream(with_aux, jbp.total)
    turned = jbp.factored(lambda x, p, y: jnp.sum(p * x) - y, argnums=1)
    with pytest.raises(ValueError, match=r"fit calls the sweep with \(params, x, y\): make it with argnums=0"):
        jbp.fit(turned, None, optax.sgd(0.1), (jnp.ones((4, 3)), jnp.ones(4)), epochs=1, batch_size=2,
                key=jax.random.key(0), params=jnp.ones(3))  # fmt: skip
    for sweep in (with_aux, turned):
        with pytest.raises(ValueError, match="of 0 arguments"):
            sweep()
    with pytest.raises(TypeError, match="params"):
        jbp.per_example(jbp.mlp((3, 1)), "huber")()
