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
    "narrow": jbp.skip_mlp((5, 1, 4, 2)),
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


@pytest.mark.parametrize("loss", jbp.LOSSES)
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
    """What makes any acyclic wiring: 1 to 5 layers, widths 1 to 6, any sources, activations and biases."""
    names, layers = ["x"], []
    for i in range(draw(st.integers(1, 5))):
        sources = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        settings = draw(
            st.tuples(st.integers(1, 6), st.just(tuple(sources)), st.sampled_from(list(ACTIVATIONS)), st.booleans())
        )
        layers.append((f"layer {i}", *settings))
        names.append(f"layer {i}")
    return draw(st.integers(1, 6)), layers


@settings(max_examples=20)
@given(wirings(), st.sampled_from(list(jbp.LOSSES)), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_random_wirings(wiring, loss, batch, seed):
    network = Network(wiring[0], tuple(Layer(*layer) for layer in wiring[1]))
    with jax.enable_x64(True):
        check_against_the_oracle(network, loss, *draw(network, loss, batch, "float64", seed))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_example_weights(reduction):
    network = jbp.skip_mlp((3, 5, 4, 2), bias=True)
    weight = jnp.array([0.0, 2.0, 0.5, 1.0, 0.0, 3.0])
    with jax.enable_x64(True):
        weight = weight.astype("float64")
        params, x, y = draw(network, "huber", 6, "float64")
        values, (dparams, _) = oracle.per_example(network, "huber", params, x, y)
        over = weight.sum() if reduction == "mean" else 1
        value, grads = jbp.value_and_grad(network, "huber", reduction)(params, x, y, weight)
        oracle.assert_close(value, (weight * values).sum() / over)
        oracle.assert_close(grads, jax.tree.map(lambda d: jnp.tensordot(weight, d, 1) / over, dparams))
        # an example of weight 0 is padding: leaving it out changes nothing
        kept = weight > 0
        _, without = jbp.value_and_grad(network, "huber", reduction)(params, x[kept], y[kept], weight[kept])
        oracle.assert_close(grads, without)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_jax_grad_of_loss_function_is_the_rule_and_right(weighted, reduction):
    network = jbp.dense_mlp((3, 5, 4, 2), "gelu", bias=True)
    with jax.enable_x64(True):
        params, x, y = draw(network, "half_squared_error", 6, "float64")
        weight = jnp.arange(1.0, 7) if weighted else None
        hand, plain = (
            jbp.loss_function(network, "half_squared_error", reduction),
            jbp.plain_loss(network, "half_squared_error", reduction),
        )
        argnums = (0, 1, 3) if weighted else (0, 1)
        given, expected = (jax.value_and_grad(f, argnums)(params, x, y, weight) for f in (hand, plain))
        oracle.assert_close(given, expected)
        # in a larger model, where the loss is scaled and the input is made by other layers
        scaled = [jax.grad(lambda x, f=f: jnp.sin(3 * f(params, jnp.tanh(x), y, weight)))(x) for f in (hand, plain)]
        oracle.assert_close(*scaled)


def test_the_rule_is_what_jax_grad_uses():
    """A loss whose written derivative is wrong on purpose: jax.grad must follow what is written."""
    wrong = (lambda yhat, y: jnp.sum((yhat - y) ** 2) / 2, lambda yhat, y: 7 * (yhat - y))
    network = jbp.mlp((3, 4, 2))
    params, x, y = draw(network, "half_squared_error", 5, "float32")
    right = jax.grad(jbp.loss_function(network, "half_squared_error"))(params, x, y)
    given = jax.grad(jbp.loss_function(network, wrong))(params, x, y)
    oracle.assert_close(given, jax.tree.map(lambda d: 7 * d, right))


def test_second_derivatives_go_through_the_rule():
    network = jbp.skip_mlp((2, 3, 1), "tanh")
    with jax.enable_x64(True):
        params, x, y = draw(network, "half_squared_error", 4, "float64")
        given, expected = (
            jax.jacrev(jax.grad(f))(params, x, y)
            for f in (jbp.loss_function(network, "half_squared_error"), jbp.plain_loss(network, "half_squared_error"))
        )
        oracle.assert_close(given, expected)


def test_the_target_is_data():
    network = jbp.mlp((3, 4, 2))
    params, x, y = draw(network, "half_squared_error", 5, "float32")
    with pytest.raises(TypeError, match="differentiated with respect to y"):
        jax.grad(jbp.loss_function(network, "half_squared_error"), argnums=2)(params, x, y)


@pytest.mark.parametrize("batched", [True, False])
def test_apply_composes_with_any_model(batched):
    network = jbp.skip_mlp((3, 5, 4, 2), "relu", bias=True)
    with jax.enable_x64(True):
        params, x, _ = draw(network, "half_squared_error", 6, "float64")
        x = x if batched else x[0]

        def model(apply, params, x):
            return jnp.sum(jnp.sin(apply(params, jnp.tanh(x) * 2)))

        given, expected = (
            jax.jit(jax.value_and_grad(lambda params, x, f=f: model(f, params, x), (0, 1)))(params, x)
            for f in (jbp.apply(network), lambda params, x: jbp.predict(network, params, x))
        )
        oracle.assert_close(given, expected)


def test_apply_does_not_form_each_examples_gradient():
    network = jbp.mlp((64, 256, 64))
    params, x, _ = draw(network, "half_squared_error", 512, "float32")
    grad = jax.jit(jax.grad(lambda params: jnp.sum(jbp.apply(network)(params, x) ** 2)))
    assert grad.lower(params).compile().memory_analysis().temp_size_in_bytes < 512 * 4 * 256 * 64 / 4


def test_transforms_compose():
    network = jbp.skip_mlp((3, 4, 2))
    params, x, y = draw(network, "huber", 6, "float32")
    run = jbp.value_and_grad(network, "huber")
    expected = run(params, x, y)
    oracle.assert_close(jax.jit(run)(params, x, y), expected)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    oracle.assert_close(jax.tree.map(lambda leaf: leaf[0], jax.vmap(run, (0, None, None))(stacked, x, y)), expected)
    _, scanned = jax.lax.scan(lambda c, xy: (c, run(params, *xy)), 0, (x.reshape(2, 3, 3), y.reshape(2, 3, 2)))
    oracle.assert_close(jax.tree.map(lambda leaf: leaf.mean(0), scanned), expected)


def test_one_shape_compiles_once():
    network = jbp.mlp((3, 4, 2))
    params, x, y = draw(network, "huber", 6, "float32")
    traces = []

    def value(yhat, y):
        traces.append(1)
        return jnp.sum(jnp.abs(yhat - y))

    loss = (value, lambda yhat, y: jnp.sign(yhat - y))
    for _ in range(3):
        jbp.value_and_grad(network, loss)(params, x, y)
    assert len(traces) == 1


def test_numpy_inputs():
    network = jbp.skip_mlp((3, 4, 2), bias=True)
    params, x, y = draw(network, "huber", 6, "float32")
    expected = jbp.value_and_grad(network, "huber")(params, x, y)
    given = jbp.value_and_grad(network, "huber")(*jax.tree.map(np.asarray, (params, x, y)), np.ones(6, np.float32))
    oracle.assert_close(given, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x, y, w: (p, x[:, :2], y, w), r"x has shape \(6, 2\), the network needs \(b, 3\)"),
        (lambda p, x, y, w: (p, x[0], y, w), r"x has shape \(3,\), the network needs \(b, 3\)"),
        (lambda p, x, y, w: (p, x.astype(int), y, w), "x has dtype int32"),
        (lambda p, x, y, w: (p, x[:0], y[:0], w), "x has no examples"),
        (lambda p, x, y, w: (p, x, y[:5], w), r"y has shape \(5, 2\).*one target for each of the 6"),
        (lambda p, x, y, w: (p, x, y[:, :1], w), r"a target has shape \(1,\), the output has \(2,\)"),
        (lambda p, x, y, w: (p, x, y, w[:5]), r"weight has shape \(5,\), expected \(6,\)"),
        (lambda p, x, y, w: (p["h0"], x, y, w), r"params has \['x'\]"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    network = jbp.mlp((3, 4, 2))
    arguments = change(*draw(network, "huber", 6, "float32"), jnp.ones(6))
    for function in (jbp.value_and_grad(network, "huber"), jbp.loss_function(network, "huber")):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_settings_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="reduction is 'avg': expected 'mean' or 'sum'"):
        jbp.value_and_grad(jbp.mlp((3, 2)), "huber", reduction="avg")
    with pytest.raises(ValueError, match="unknown loss 'mse'"):
        jbp.value_and_grad(jbp.mlp((3, 2)), "mse")
    bad = (lambda yhat, y: yhat - y, lambda yhat, y: yhat - y)
    with pytest.raises(ValueError, match=r"value of shape \(2,\)"):
        jbp.value_and_grad(jbp.mlp((3, 2)), bad)(
            jbp.init(jbp.mlp((3, 2)), jax.random.key(0)), jnp.ones((4, 3)), jnp.ones((4, 2))
        )
