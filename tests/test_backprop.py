"""Every value, adjoint and gradient against the oracle, over wirings, activations, losses and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxbackprop as jbp
from jaxbackprop import Layer, Network
from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.backprop import sweep_batch

HAND_WIRED = Network(
    5,
    (
        Layer("a", 4, ("x",), "relu", True),
        Layer("b", 3, ("a", "x"), "tanh"),
        Layer("dead end", 2, ("b",), "silu", True),
        Layer("c", 1, ("b", "a"), "elu"),
        Layer("out", 2, ("c", "x", "b", "a"), "sigmoid", True),
    ),
)
NETWORKS = {
    "mlp": jbp.mlp((5, 4, 3, 2)),
    "skip": jbp.skip_mlp((5, 4, 3, 2), bias=True),
    "dense": jbp.dense_mlp((5, 4, 3, 2), bias=True),
    "hand-wired": HAND_WIRED,
    "no hidden layer": jbp.mlp((5, 2)),
    "width 1": jbp.skip_mlp((1, 1, 1, 1)),
    "uneven": jbp.skip_mlp((5, 1, 4, 2)),
    "narrow": jbp.dense_mlp((3, 2, 1, 3), bias=True),  # up to network.NARROW: the batch is the minor axis
}


def draw(network, loss, batch, dtype, seed=0):
    """Parameters and a batch of data, from numpy, so that the same seed gives the same numbers in every dtype."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / max(leaf.shape[-1], 1) ** 0.5, dtype),
        jax.eval_shape(lambda: jbp.init(network, jax.random.key(0))),
    )
    x = jnp.asarray(rng.normal(size=(batch, network.inputs)), dtype)
    k = network.layers[-1].width
    y = {
        "softmax_cross_entropy": lambda: jnp.asarray(rng.integers(k, size=batch)),
        "sigmoid_binary_cross_entropy": lambda: jnp.asarray(rng.uniform(size=(batch, k)), dtype),
    }.get(loss, lambda: jnp.asarray(rng.normal(size=(batch, k)), dtype))()
    return params, x, y


def check_against_the_oracle(network, loss, params, x, y, compiled=True, tolerance=None):
    def everything(params, x, y):
        _, _, b = jax.vmap(lambda x, y: jbp.sweep(network, loss, params, x, y))(x, y)
        batches = [jbp.value_and_grad(network, loss, reduction)(params, x, y) for reduction in ("mean", "sum")]
        return b, jbp.per_example(network, loss)(params, x, y), batches

    b, (values, fg), batches = (jax.jit(everything) if compiled else everything)(params, x, y)
    expected, (dparams, dnodes) = jax.tree.map(np.asarray, oracle.per_example(network, loss, params, x, y))
    # for each node and each example
    oracle.assert_close(b.dz, dnodes["z"], tolerance)
    oracle.assert_close(b.dh, dnodes["h"], tolerance)
    # for each example: its value, and its gradient from the factors
    oracle.assert_close(values, expected, tolerance)
    dz, h = jax.tree.map(np.asarray, (fg.dz, fg.h))
    single = {t.name: {s: dz[t.name][:, :, None] * h[s][:, None, :] for s in t.sources} for t in network.layers}
    for t in network.layers:
        if t.bias:
            single[t.name]["bias"] = dz[t.name]
    oracle.assert_close(single, dparams, tolerance)
    # for each parameter, over the batch
    for reduce, batch in zip((np.mean, np.sum), batches, strict=True):
        summed = jax.tree.map(lambda d: reduce(d, axis=0), (expected, dparams))  # noqa: B023
        oracle.assert_close(batch, summed, tolerance)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loss", ["half_squared_error", "softmax_cross_entropy"])
def test_wirings_in_float64(name, loss):
    with jax.enable_x64(True):
        check_against_the_oracle(NETWORKS[name], loss, *draw(NETWORKS[name], loss, 6, "float64"))


@pytest.mark.parametrize("name", NETWORKS)
def test_wirings_in_float32(name):
    check_against_the_oracle(NETWORKS[name], "huber", *draw(NETWORKS[name], "huber", 6, "float32"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(activation, dtype):
    network = jbp.skip_mlp((3, 5, 4, 2), activation)
    with jax.enable_x64(dtype == "float64"):
        check_against_the_oracle(network, "half_squared_error", *draw(network, "half_squared_error", 7, dtype))


@pytest.mark.parametrize("loss", jbp.losses.LOSSES)
@pytest.mark.parametrize("batch", [1, 7])
def test_losses(loss, batch):
    network = jbp.skip_mlp((3, 5, 4, 2), bias=True)
    with jax.enable_x64(True):
        check_against_the_oracle(network, loss, *draw(network, loss, batch, "float64"))


def test_without_jit():
    network = jbp.skip_mlp((3, 5, 4, 2), bias=True)
    with jax.disable_jit(), jax.enable_x64(True):
        check_against_the_oracle(network, "huber", *draw(network, "huber", 3, "float64"), compiled=False)


def test_bfloat16_stays_within_its_own_precision_of_float32():
    network = jbp.skip_mlp((16, 32, 24, 3), "tanh")
    params, x, y = draw(network, "half_squared_error", 64, "bfloat16")
    value, grads = jbp.value_and_grad(network, "half_squared_error")(params, x, y)
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), (params, x, y))
    value32, grads32 = jbp.value_and_grad(network, "half_squared_error")(*wide)
    assert value.dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("bfloat16")}
    as32 = jax.tree.map(lambda leaf: leaf.astype("float32"), (value, grads))
    oracle.assert_close(as32, (value32, grads32), tolerance=0.05)


def test_half_precision_accumulates_in_float32():
    # 4,096 ones: a bfloat16 accumulator stops at 256, a float16 sum of squares of 300 overflows before the mean is taken
    net = jbp.mlp((1, 1))
    ones = jnp.ones((4096, 1), "bfloat16")
    value, grads = jbp.value_and_grad(net, "half_squared_error", "sum")(
        {"yhat": {"x": jnp.ones((1, 1), "bfloat16")}}, ones, 0 * ones
    )
    assert float(grads["yhat"]["x"][0, 0]) == 4096.0
    assert float(value) == 2048.0
    wide = jnp.full((512, 1), 100, "float16")
    _, grads = jbp.value_and_grad(net, "half_squared_error")(
        {"yhat": {"x": jnp.ones((1, 1), "float16")}}, wide, 0 * wide
    )
    assert float(grads["yhat"]["x"][0, 0]) == 10000.0


@st.composite
def wirings(draw):
    """What makes any acyclic wiring: 1 to 5 layers, widths 1 to 5, any sources, activations and biases."""
    names, layers = ["x"], []
    for i in range(draw(st.integers(1, 5))):
        sources = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        settings = draw(
            st.tuples(
                st.sampled_from((1, 2, 3, 5)),
                st.just(tuple(sources)),
                st.sampled_from(list(ACTIVATIONS)),
                st.booleans(),
            )
        )
        layers.append((f"layer {i}", *settings))
        names.append(f"layer {i}")
    return draw(st.sampled_from((1, 3, 6))), layers


@settings(max_examples=20)
def quartic(yhat, y):
    return jnp.sum((yhat - y) ** 4)


def test_derivatives_that_are_left_out_give_the_gradient_of_jax_grad_in_one_program():
    net = jbp.skip_mlp((3, 4, 2, 2), jbp.Activation(jnp.sin), bias=True)
    params, x, y = jbp.init(net, jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 3)), jnp.ones((5, 2))
    compiled = sweep_batch._cache_size()
    for loss in (quartic, jbp.Loss(quartic), jbp.Loss(quartic)):
        again = jbp.skip_mlp((3, 4, 2, 2), jbp.Activation(jnp.sin), bias=True)
        _, fg = jbp.per_example(again, loss)(params, x, y)
        oracle.assert_close(jbp.total(fg), jax.grad(jbp.plain_loss(net, loss, "sum"))(params, x, y), 1e-5)
    assert sweep_batch._cache_size() == compiled + 1


@given(wirings(), st.sampled_from(list(jbp.losses.LOSSES)), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_random_wirings(wiring, loss, batch, seed):
    network = Network(wiring[0], tuple(Layer(*layer) for layer in wiring[1]))
    with jax.enable_x64(True):
        check_against_the_oracle(network, loss, *draw(network, loss, batch, "float64", seed))
