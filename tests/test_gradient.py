"""The batch's gradient as users call it: reductions, weights, tiles, `jax.custom_vjp`, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from test_backprop import NETWORKS, draw

import jaxbackprop as jbp
from jaxbackprop import arithmetic
from jaxbackprop.programs.flat import flatten
from jaxbackprop.scaling.streaming import ACCELERATOR_SHARE, UNKNOWN_BYTES, best_tile, free_bytes


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tile", [1, 3, 6, None])
def test_tiles_change_nothing(name, tile):
    with jax.enable_x64(True):
        params, x, y = draw(NETWORKS[name], "huber", 7, "float64")
        weight = jnp.array([0.0, 2.0, 0.5, 1.0, 0.0, 3.0, 1.0])
        values, (dparams, _) = oracle.per_example(NETWORKS[name], "huber", params, x, y)
        for c in (None, weight):
            over = jnp.ones(7) if c is None else c
            given = jbp.value_and_grad(NETWORKS[name], "huber", tile=tile)(params, x, y, c)
            expected = (over @ values, jax.tree.map(lambda d, c=over: jnp.tensordot(c, d, 1), dparams))
            oracle.assert_close(given, jax.tree.map(lambda d, c=over: d / c.sum(), expected))


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (2, 2, 2, 2), (8, 64, 64, 1)])
def test_by_default_memory_does_not_grow_with_the_batch(widths):
    network = jbp.skip_mlp(widths)
    batches = [draw(network, "huber", batch, "float32") for batch in (2**18, 2**19)]
    for function in (jbp.value_and_grad(network, "huber"), jax.jit(jax.grad(jbp.loss_function(network, "huber")))):
        programs = [function.lower(*arguments).compile() for arguments in batches]
        small, large = [program.memory_analysis().temp_size_in_bytes for program in programs]
        assert large < 1.01 * small < 2**25


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (8, 64, 64, 1)])
def test_streamed_sums_are_accurate(widths):
    """Rounding is that of a tile's sum, some 1e-7; a sum of all in a row would be off by 1e-5 and more."""
    network = jbp.skip_mlp(widths)
    params, x, y = draw(network, "half_squared_error", 2**17, "float32")
    given = jbp.value_and_grad(network, "half_squared_error")(params, x, y)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), (params, x, y))
        expected = jax.jit(jax.value_and_grad(jbp.plain_loss(network, "half_squared_error")))(*wide)
    as64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given)
    oracle.assert_close(as64, jax.tree.map(np.asarray, expected), tolerance=2e-6)


def test_half_precision_tiles_are_rounded_once():
    """257 ones are 256 in bfloat16: were each tile's sum rounded, 24 of them would be 6,144."""
    network, ones = jbp.mlp((64, 1)), jnp.ones((24 * 257, 64), "bfloat16")
    params = {"yhat": {"x": jnp.full((1, 64), 1 / 64, "bfloat16")}}
    _, grads = jbp.value_and_grad(network, "half_squared_error", "sum", tile=257)(params, ones, 0 * ones[:, :1])
    assert set(np.asarray(grads["yhat"]["x"], np.float32).ravel()) == {6176.0}  # bfloat16's nearest to 6,168


@pytest.mark.parametrize(
    ("widths", "examples"),
    [((1, 1, 1, 1), 100), ((1, 1, 1, 1), 50_000), ((8, 16, 16, 2), 300), ((64, 128, 128, 10), 64)],
)
def test_half_precision_is_rounded_once_on_a_cpu(widths, examples):
    """Forward, back and sum in float32: what is left is the rounding of the result, half of 2⁻⁷ of a number below 2."""
    network = jbp.skip_mlp(widths, "tanh")
    params, x, y = draw(network, "half_squared_error", examples, "bfloat16")
    given = jax.tree.leaves(jbp.value_and_grad(network, "half_squared_error")(params, x, y))
    assert {leaf.dtype.name for leaf in given} == {"bfloat16"}
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), (params, x, y))
        expected = jax.tree.leaves(jax.value_and_grad(jbp.plain_loss(network, "half_squared_error"))(*wide))
    for a, b in zip(given, map(np.asarray, expected), strict=True):
        assert np.all(np.abs(np.asarray(a, np.float64) - b) <= 2**-8 * np.abs(b) + 1e-6)


def test_tiles_of_no_numbers_between_are_not_cut():
    """A product of one position an example has nothing between: however many examples, no loop over tiles of them."""
    h = jnp.ones((arithmetic.LARGEST + 1, 1))
    program = flatten(lambda h: arithmetic.tiled(lambda h: h[:, 0], 0, h), h)
    assert [step.name for step in program.steps if step.name in ("scan", "while")] == []


def test_half_precision_is_counted_in_float32_on_a_cpu():
    """What lies between is turned into float32 there, so that a batch of halves takes the memory of one of floats, and x too."""
    sweep, tiles = jbp.per_example(jbp.mlp((64, 128, 128, 10)), "half_squared_error"), {}
    for dtype in ("float32", "bfloat16"):
        batch = draw(sweep.model.network, "half_squared_error", 16_384, dtype)
        tiles[dtype] = {platform: best_tile(sweep, batch[0], batch[1:], platform) for platform in ("cpu", "gpu")}
    assert tiles["bfloat16"]["cpu"] <= tiles["float32"]["cpu"] < 16_384
    assert tiles["bfloat16"]["gpu"] == 16_384


def test_the_default_tile_divides_the_batch_where_it_can():
    def best(widths, examples, platform):
        network = jbp.skip_mlp(widths)
        sweep, params = jbp.per_example(network, "half_squared_error"), jbp.init(network, jax.random.key(0))
        shapes = ((examples, width) for width in (widths[0], widths[-1]))
        return best_tile(sweep, params, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes], platform)

    for widths in ((1, 1, 1, 1), (4, 4, 4), (8, 64, 64, 1), (784, 512, 10), (1, 5000, 1)):
        for examples in (1, 2, 1000, 4096, 50_000, 65_536, 1_000_000):
            tile = best(widths, examples, "cpu")
            assert 1 <= tile <= examples
            assert examples % tile == 0
            if examples <= 65_536:
                assert best(widths, examples, "gpu") == examples, "tiles lose on an accelerator"
        assert 1 <= best(widths, 1_000_003, "cpu") <= 1_000_003  # a prime
        assert best(widths, 2**31, "gpu") < 2**31, "what does not fit is swept in tiles"


class Accelerator:
    """A device with so much memory, a quarter of it taken."""

    platform = "gpu"

    def __init__(self, memory):
        self.memory = memory

    def memory_stats(self):
        return {"bytes_limit": self.memory, "bytes_in_use": self.memory // 4}


def test_an_accelerator_is_asked_what_is_free(monkeypatch):
    """An example of 4-4-4 keeps h (4 + 4) and dz (4 + 4), 64 bytes in float32, and takes 96 while it is swept."""
    network, examples = jbp.mlp((4, 4, 4)), 2**20
    sweep, params = jbp.per_example(network, "half_squared_error"), jbp.init(network, jax.random.key(0))
    batch = [jax.ShapeDtypeStruct((examples, 4), "float32")] * 2
    enough = int(96 * examples / ACCELERATOR_SHARE / 0.75)
    for memory, fits in ((enough + 8, True), (enough - 8, False), (2**40, True)):
        monkeypatch.setattr(jax, "devices", lambda memory=memory: [Accelerator(memory)])
        assert (best_tile(sweep, params, batch, "gpu") == examples) == fits
    assert free_bytes(Accelerator(4000)) == 3000
    monkeypatch.setattr(Accelerator, "memory_stats", lambda self: None)
    assert free_bytes(Accelerator(0)) == UNKNOWN_BYTES, "not every device says"


def test_lanes_are_of_a_cpu():
    """Where the program is lowered for another device, no readout is vmapped over single examples."""
    network, x = jbp.mlp((1, 1)), jax.ShapeDtypeStruct((4096, 1), "float32")
    params, readout = jax.eval_shape(lambda: jbp.init(network, jax.random.key(0))), jbp.total
    program = jax.jit(jbp.stream(network, "half_squared_error", readout, tile=1024)).trace(params, x, x)
    lanes = {p: "tensor<1x1x1024xf32>" in program.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    assert lanes == {"cpu": True, "cuda": False}


@pytest.mark.parametrize("tile", [0, -1, True])
def test_a_tile_that_is_not_a_positive_integer_is_refused(tile):
    with pytest.raises(ValueError, match="tile is"):
        jbp.value_and_grad(NETWORKS["mlp"], "huber", tile=tile)


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
    jbp.value_and_grad(network, loss)(params, x, y)
    once = len(traces)
    for _ in range(3):
        jbp.value_and_grad(network, loss)(params, x, y)
    assert len(traces) == once


def test_numpy_inputs():
    network = jbp.skip_mlp((3, 4, 2), bias=True)
    params, x, y = draw(network, "huber", 6, "float32")
    expected = jbp.value_and_grad(network, "huber")(params, x, y)
    given = jbp.value_and_grad(network, "huber")(*jax.tree.map(np.asarray, (params, x, y)), np.ones(6, np.float32))
    oracle.assert_close(given, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x, y, w: (p, x[:, :2], y, w), r"x has shape \(6, 2\), expected \(b, 3\)"),
        (lambda p, x, y, w: (p, x[0], y, w), r"x has shape \(3,\), expected \(b, 3\)"),
        (lambda p, x, y, w: (p, x.astype(int), y, w), "x has dtype int32"),
        (lambda p, x, y, w: (p, x[:0], y[:0], w), "x has no examples"),
        (lambda p, x, y, w: (p, x, y[:5], w), r"y has shape \(5, 2\), expected \(6, …\): b is 6 in x"),
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


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (lambda net, params, x, y: jbp.apply(net)(params, x), "predict"),
        (lambda net, params, x, y: jbp.loss_function(net, "huber")(params, x, y), "plain_loss"),
    ],
)
@pytest.mark.parametrize("mode", [lambda f, p: jax.jvp(f, (p,), (p,)), lambda f, p: jax.jacfwd(f)(p)])
def test_forward_mode_is_refused_by_name(function, instead, mode):
    net = jbp.mlp((2, 3, 1))
    params, x, y = jbp.init(net, jax.random.key(0)), jnp.ones((4, 2)), jnp.zeros((4, 1))
    with pytest.raises(TypeError, match=f"none for jax.jvp and jax.jacfwd: there use jaxbackprop.{instead}"):
        mode(lambda params: function(net, params, x, y), params)
    assert jax.hessian(lambda p: jnp.sum(function(net, p, x, y)))(params)  # forward over reverse


def test_a_penalty_on_norms_has_a_slope_where_a_gradient_is_0():
    net = jbp.mlp((2, 3, 1), "tanh")
    with jax.enable_x64(True):
        params, x = jbp.init(net, jax.random.key(0), "float64"), jnp.linspace(-1, 1, 8).reshape(4, 2)
        y = jbp.predict(net, params, x).at[:2].add(0.5)  # the others fit exactly

        def penalty(params):
            return jnp.sum(jbp.norms(jbp.per_example(net, "half_squared_error")(params, x, y)[1]))

        def plain(params):
            def norm(x, y):
                loss = lambda p: jnp.sum((jbp.predict(net, p, x) - y) ** 2) / 2  # noqa: E731
                return jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(params))))

            return norm(x[0], y[0]) + norm(x[1], y[1])

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
            jax.grad(penalty)(params),
            jax.grad(plain)(params),
        )
