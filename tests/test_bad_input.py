"""What is given to the library and fits not, or fits in an odd shape: a right answer, or one line that says what is wrong.

Here nothing checks types before the library does: the tests' own checks of annotations are off, as they are for users.
"""

from collections import OrderedDict
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_backprop import draw

import jaxbackprop as jbp
from jaxbackprop import Layer, Network, exercise
from jaxbackprop.checking.check import NoRuleError
from jaxbackprop.training import accounting

HALF, HUBER, SOFTMAX, BINARY = "half_squared_error", "huber", "softmax_cross_entropy", "sigmoid_binary_cross_entropy"
NETWORK = jbp.skip_mlp((3, 5, 4, 2), "tanh", bias=True)
PARAMS, X, Y = jax.tree.map(np.asarray, draw(NETWORK, HALF, 6, "float32"))
LABELS, WEIGHT = np.array([0, 1, 1, 0, 1, 0]), np.array([1, 2, 0.5, 1, 0, 3], "float32")
EXERCISE, LINEAR = jbp.skip_mlp((1, 1, 1, 1)), jbp.mlp((3, 2))
KEY = jax.random.key(0)
NUMBER = {t.name: {s: np.full((1, 1), 0.5) for s in t.sources} for t in EXERCISE.layers}
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiled once, run once


# under jit, JAX adds this to the error that is shown
JAX_SAYS = (
    "\n--------------------\nFor simplicity, JAX has removed its internal frames from the traceback of the following "
    "exception. Set JAX_TRACEBACK_FILTERING=off to include these."
)


@pytest.fixture(autouse=True, scope="module")
def _no_other_type_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Unhashable:
    """A function of its own kind, equal by value: it has no hash."""

    def __eq__(self, other):
        return True

    def __call__(self, *args):
        return args[0]


def refused(call, error, message):
    """One line of ours: not one of JAX's or NumPy's that happens to pass by."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error
    said = str(caught.value).removesuffix(JAX_SAYS)
    assert "\n" not in said
    assert len(said) < 400


def changed(layer, source, value):
    return PARAMS | {layer: PARAMS[layer] | {source: value}}


def factored(x=X, y=Y, loss=HALF):
    return jbp.per_example(NETWORK, loss)(PARAMS, x, y)[1]


# Wirings


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Network(2, [Layer("a", 1, ("x",))]), TypeError, "layers is a list: expected a tuple"),
        (lambda: Network(2, Layer("a", 1, ("x",))), TypeError, "layers is a Layer: expected a tuple"),
        (lambda: Network(2, None), TypeError, "layers is a NoneType"),
        (lambda: Network(2, (Layer("a", 1, ("x",)), "b")), TypeError, "layers holds 'b': expected a jaxbackprop.Layer"),
        (lambda: Network(-3, (Layer("a", 1, ("x",)),)), ValueError, "the input has width -3: expected at least 1"),
        (lambda: Network(jnp.int32(2), (Layer("a", 1, ("x",)),)), TypeError, "the input has width Array.*an integer"),
        (lambda: Network(2, (Layer("a", np.array(3), ("x",)),)), TypeError, "layer 'a' has width array.*an integer"),
        (lambda: Network(2, (Layer("a", True, ("x",)),)), TypeError, "layer 'a' has width True: expected an integer"),
        (lambda: Network(2, (Layer("a", 1.5, ("x",)),)), TypeError, "layer 'a' has width 1.5"),
        (lambda: Network(2, (Layer(3, 1, ("x",)),)), ValueError, "layer 3: a name is a string"),
        (lambda: Network(2, (Layer(["a"], 1, ("x",)),)), ValueError, r"layer \['a'\]: a name is a string"),
        (lambda: Network(2, (Layer(None, 1, ("x",)),)), ValueError, "layer None: a name is a string"),
        (lambda: Network(2, (Layer("a", 1, ["x"]),)), ValueError, r"sources is \['x'\]: expected a tuple of names"),
        (lambda: Network(2, (Layer("a", 1, (["x"],)),)), ValueError, "layer 'a': unknown source"),
        (lambda: Network(2, (Layer("a", 1, (3,)),)), ValueError, "layer 'a': unknown source '3'"),
        (
            lambda: Network(2, (Layer("a", 1, ("b",)), Layer("b", 1, ("a",)))),
            ValueError,
            "'a': reads 'b', which is not",
        ),
        (lambda: Network(2, (Layer("a", 1, ("x",), bias="no"),)), TypeError, "layer 'a': bias is 'no': expected True"),
        (lambda: Network(2, (Layer("a", 1, ("x",), bias=2),)), TypeError, "layer 'a': bias is 2: expected True"),
        (lambda: jbp.mlp((2, 3, 1), None), TypeError, "layer 'h0': activation is None: expected a name"),
        (lambda: jbp.mlp((2, 3, 1), ["relu"]), TypeError, r"layer 'h0': activation is \['relu'\]: expected a name"),
        (lambda: jbp.mlp((2, 3, 1), (Unhashable(),) * 2), TypeError, "layer 'h0': activation cannot be hashed"),
        (lambda: jbp.mlp((2, 3, 1), bias="yes"), TypeError, "layer 'h0': bias is 'yes'"),
        (lambda: jbp.network.count_parameters("mlp"), TypeError, "network is a str: expected a jaxbackprop.Network"),
        (lambda: jbp.network.count_parameters(None), TypeError, "network is a NoneType"),
    ],
)
def test_a_wiring_of_the_wrong_kind_is_refused(make, error, message):
    refused(make, error, message)


@pytest.mark.parametrize("build", [jbp.mlp, jbp.skip_mlp, jbp.dense_mlp])
@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        (5, TypeError, "widths is 5: expected a sequence of integers, such as"),
        (None, TypeError, "widths is None"),
        ({8, 64, 1}, TypeError, "widths is {.*}: expected a sequence"),  # has no order
        ("231", TypeError, "the input has width '2'"),
        ((), ValueError, r"widths is \(\): expected the input's and the output's at least"),
        ((2, 0, 1), ValueError, "layer 'h0' has width 0: expected at least 1"),
        ((2, -1, 1), ValueError, "layer 'h0' has width -1"),
        (np.array([2.0, 3.0]), TypeError, "the input has width .*2.0.*: expected an integer"),
        (jnp.array([2, 3]), TypeError, "widths is .*: expected a sequence"),
    ],
)
def test_widths_of_the_wrong_kind_are_refused(build, widths, error, message):
    refused(lambda: build(widths), error, message)


def test_integers_of_numpy_are_widths():
    assert jbp.mlp(np.array([2, 3, 1]), bias=np.bool_(True)) == jbp.mlp([2, 3, 1], bias=True)
    assert jbp.network.count_parameters(jbp.mlp(np.array([2, 3, 1]))) == 9


@pytest.mark.parametrize(
    ("key", "dtype", "error", "message"),
    [
        (0, "float32", TypeError, r"key is a int: expected one key, such as jax.random.key\(0\)"),
        (None, "float32", TypeError, "key is a NoneType"),
        (jax.random.split(KEY), "float32", TypeError, r"key has shape \(2,\)"),
        (np.ones(3), "float32", TypeError, r"key has shape \(3,\) and dtype float64"),
        (KEY, "int32", ValueError, "dtype is 'int32': expected 'float32'"),
        (KEY, "complex64", ValueError, "dtype is 'complex64': expected"),
        (KEY, "flot32", ValueError, "dtype is 'flot32': expected"),
        (KEY, None, ValueError, "dtype is None: expected"),
        (KEY, 3, ValueError, "dtype is 3: expected"),
        (KEY, "float64", ValueError, r"dtype is float64, and 64-bit types are off: .*enable_x64"),
    ],
)
def test_keys_and_dtypes_that_init_cannot_use(key, dtype, error, message):
    refused(lambda: jbp.init(NETWORK, key, dtype), error, message)


def test_an_old_style_key_is_a_key():
    given = jbp.init(LINEAR, jax.random.PRNGKey(3))
    assert np.array_equal(given["yhat"]["x"], jbp.init(LINEAR, jax.random.key(3))["yhat"]["x"])


# Settings

MAKERS = {
    "value_and_grad": lambda network=NETWORK, loss=HALF, **settings: jbp.value_and_grad(network, loss, **settings),
    "loss_function": lambda network=NETWORK, loss=HALF, **settings: jbp.loss_function(network, loss, **settings),
    "plain_loss": lambda network=NETWORK, loss=HALF, **settings: jbp.plain_loss(network, loss, **settings),
    "per_example": lambda network=NETWORK, loss=HALF, **settings: jbp.per_example(network, loss, **settings),
    "stream": lambda network=NETWORK, loss=HALF, **settings: jbp.stream(network, loss, **settings),
    "fused": lambda network=NETWORK, loss=HALF, **settings: jbp.fused(network, loss, interpret=True, **settings),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "mlp"}, TypeError, "network is a str: expected a jaxbackprop.Network"),
        ({"network": PARAMS}, TypeError, "network is a dict: expected a jaxbackprop.Network"),
        ({"loss": "mse"}, ValueError, "unknown loss 'mse'.*Known: half_squared_error"),
        ({"loss": None}, TypeError, "loss is None: expected a name"),
        ({"loss": [HALF]}, TypeError, "loss is .*: expected a name"),
        ({"loss": (Unhashable(), Unhashable())}, TypeError, "loss cannot be hashed.*give a plain function"),
        ({"precision": "hihgest"}, ValueError, "precision is 'hihgest': expected None, 'default', 'high', 'highest'"),
        ({"precision": ["highest"]}, ValueError, r"precision is \['highest'\]: expected"),
        ({"precision": True}, ValueError, "precision is True: expected"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused_at_once(maker, change, error, message):
    refused(lambda: MAKERS[maker](**change), error, message)


@pytest.mark.parametrize("maker", ["value_and_grad", "loss_function", "plain_loss"])
@pytest.mark.parametrize("reduction", ["avg", None, ["mean"], np.array(["mean", "sum"])])
def test_a_reduction_that_does_not_exist_is_refused(maker, reduction):
    refused(lambda: MAKERS[maker](reduction=reduction), ValueError, "reduction is .*: expected 'mean' or 'sum'")


@pytest.mark.parametrize("maker", ["value_and_grad", "stream"])
@pytest.mark.parametrize("tile", [0, -1, True, 1.5, "4", np.array([3]), jnp.int32(3)])
def test_a_tile_that_is_not_a_positive_integer_is_refused(maker, tile):
    refused(lambda: MAKERS[maker](tile=tile), ValueError, "tile is .*: expected an integer of at least 1")


@pytest.mark.parametrize(
    "setting", [{"block": b} for b in (0, 8, 1.5, True, np.array([16]), "16")] + [{"programs": 1.5}]
)
def test_a_block_of_the_wrong_kind_is_refused(setting):
    refused(lambda: MAKERS["fused"](**setting), ValueError, "(block|programs) is .*: expected")


@pytest.mark.parametrize("maker", ["stream", "fused"])
@pytest.mark.parametrize(
    ("readout", "error", "message"),
    [
        (3, TypeError, "readout is a int: expected a function"),
        ("total", TypeError, "readout is a str: expected a function"),
        (Unhashable(), TypeError, "readout cannot be hashed"),
        (jbp.norms, ValueError, r"readout has shape \(2,\) for 2 examples and \(3,\) for 3: expected a sum"),
        (jbp.materialise, ValueError, r"readout\['.*'\]\['.*'\] has shape \(2, .*\) for 2 examples .*: expected a sum"),
    ],
)
def test_a_readout_that_is_no_sum_is_refused(maker, readout, error, message):
    small = {"yhat": {"x": X[:2]}}
    for network, params in ((NETWORK, PARAMS), (LINEAR, small)):  # the second in lanes
        refused(lambda n=network, p=params: MAKERS[maker](n, readout=readout)(p, X[:4], Y[:4]), error, message)


def test_a_precision_that_does_not_exist_is_refused_by_every_product():
    f, fg = jbp.forward(NETWORK, PARAMS, X[0]), factored()
    for call in (
        lambda p: jbp.forward(NETWORK, PARAMS, X[0], p),
        lambda p: jbp.predict(NETWORK, PARAMS, X, p),
        lambda p: jbp.apply(NETWORK, p)(PARAMS, X),
        lambda p: jbp.sweep(NETWORK, HALF, PARAMS, X[0], Y[0], precision=p),
        lambda p: jbp.backward(NETWORK, PARAMS, f, Y[0], p),
        lambda p: jbp.total(fg, precision=p),
        lambda p: jbp.variance.power_sums(fg, precision=p),
        lambda p: jbp.moments(fg, precision=p),
        lambda p: jbp.gram(fg, precision=p),
        lambda p: jbp.inner(fg, PARAMS, p),
        lambda p: jbp.noise_scale(fg, p),
        lambda p: jbp.predict(EXERCISE, jbp.init(EXERCISE, KEY), X[:, :1], p),  # products without a sum
    ):
        for precision in ("hihgest", ["highest"], 3):
            refused(lambda call=call, p=precision: call(p), ValueError, "precision is .*: expected None")
        jax.make_jaxpr(lambda call=call: jax.tree.leaves(call(jax.lax.Precision.HIGHEST)))()


# A batch, by everything that takes one

BATCH = {name: make() for name, make in MAKERS.items()} | {
    "jax.grad of loss_function": jax.grad(jbp.loss_function(NETWORK, HALF), argnums=(0, 1))
}
NOT_FITTING = {
    "params missing a layer": (
        lambda p, x, y: ({"h0": p["h0"]}, x, y),
        ValueError,
        r"params has \['h0'\], expected a dict with \['h0', 'h1', 'yhat'\]: take jaxbackprop.init",
    ),
    "params with another edge": (
        lambda p, x, y: (changed("h1", "x", np.ones((4, 3), "float32")), x, y),
        ValueError,
        r"params\['h1'\] has \['bias', 'h0', 'x'\], expected a dict with \['bias', 'h0'\]",
    ),
    "params of no layers": (lambda p, x, y: (None, x, y), ValueError, "params is a NoneType, expected a dict"),
    "a layer that is an array": (
        lambda p, x, y: (p | {"h0": p["h0"]["x"]}, x, y),
        ValueError,
        r"params\['h0'\] is a .*, expected a dict",
    ),
    "a weight transposed": (
        lambda p, x, y: (changed("h0", "x", p["h0"]["x"].T), x, y),
        ValueError,
        r"params\['h0'\]\['x'\] has shape \(3, 5\), expected \(5, 3\)",
    ),
    "a weight of integers": (
        lambda p, x, y: (changed("h0", "x", np.ones((5, 3), int)), x, y),
        ValueError,
        r"params\['h0'\]\['x'\] has dtype int32, expected floating point",
    ),
    "a complex weight": (
        lambda p, x, y: (changed("h0", "x", np.ones((5, 3), "complex64")), x, y),
        ValueError,
        r"params\['h0'\]\['x'\] has dtype complex64, expected floating point",
    ),
    "None for a weight": (
        lambda p, x, y: (changed("h0", "x", None), x, y),
        TypeError,
        r"params\['h0'\]\['x'\] is a NoneType: expected an array",
    ),
    "a list for a weight": (
        lambda p, x, y: (changed("h0", "x", p["h0"]["x"].tolist()), x, y),
        TypeError,
        r"params\['h0'\]\['x'\] is a list: expected an array",
    ),
    "x of one example": (lambda p, x, y: (p, x[0], y), ValueError, r"x has shape \(3,\), expected \(b, 3\)"),
    "x of rank 3": (lambda p, x, y: (p, x[None], y), ValueError, r"x has shape \(1, 6, 3\), expected"),
    "x too wide": (lambda p, x, y: (p, X[:, :2], y), ValueError, r"x has shape \(6, 2\), expected \(b, 3\)"),
    "x a number": (lambda p, x, y: (p, np.float32(1), y), ValueError, r"x has shape \(\), expected"),
    "x a list": (lambda p, x, y: (p, x.tolist(), y), TypeError, "x is a list: expected an array"),
    "x None": (lambda p, x, y: (p, None, y), TypeError, "x is a NoneType: expected an array"),
    "x of integers": (lambda p, x, y: (p, x.astype(int), y), ValueError, r"x has dtype int32.*x.astype\('float32'\)"),
    "x of booleans": (lambda p, x, y: (p, x > 0, y), ValueError, "x has dtype bool, expected floating point"),
    "x complex": (lambda p, x, y: (p, x.astype("complex64"), y), ValueError, "x has dtype complex64"),
    "no examples": (lambda p, x, y: (p, x[:0], y[:0]), ValueError, r"x has no examples.*give at least one"),
    "y of fewer": (lambda p, x, y: (p, x, y[:5]), ValueError, r"y has shape \(5, 2\), expected \(6, …\): b is 6 in x"),
    "y too narrow": (lambda p, x, y: (p, x, y[:, :1]), ValueError, r"a target has shape \(1,\), the output has \(2,\)"),
    "y of labels": (lambda p, x, y: (p, x, LABELS), ValueError, r"a target has shape \(\), the output has \(2,\)"),
    "y a number": (lambda p, x, y: (p, x, np.float32(1)), ValueError, r"y has shape \(\), expected \(6, …\)"),
    "y a list": (lambda p, x, y: (p, x, y.tolist()), TypeError, "y is a list: expected an array"),
    "y None": (lambda p, x, y: (p, x, None), TypeError, "y is a NoneType: expected an array"),
    "y complex": (lambda p, x, y: (p, x, y + 1j), ValueError, "a target is complex64: expected real numbers"),
}


@pytest.mark.parametrize("case", NOT_FITTING)
@pytest.mark.parametrize("name", BATCH)
def test_a_batch_that_does_not_fit_is_refused(name, case):
    change, error, message = NOT_FITTING[case]
    if name.startswith("jax.grad") and case in ("a weight of integers", "x of integers", "x of booleans"):
        error, message = TypeError, "grad requires real- or complex-valued inputs"  # by jax.grad, before it comes to us
    refused(lambda: BATCH[name](*change(PARAMS, X, Y)), error, message)


@pytest.mark.parametrize("name", [name for name in BATCH if name != "per_example"])
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones(5, "float32"), ValueError, r"weight has shape \(5,\), expected \(6,\): b is 6 in x \(6, 3\)"),
        (np.ones((6, 1), "float32"), ValueError, r"weight has shape \(6, 1\), expected \(6,\)"),
        (2.0, ValueError, r"weight has shape \(\), expected \(6,\)"),
        ([1.0] * 6, TypeError, "weight is a list: expected an array"),
        (np.ones(6, "complex64"), ValueError, "weight has dtype complex64: expected real numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(name, weight, error, message):
    refused(lambda: BATCH[name](PARAMS, X, Y, weight), error, message)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "y",
    [
        LABELS.astype("float32"),
        LABELS > 0,
        LABELS[:, None],
        np.eye(2, dtype=int)[LABELS],
        np.eye(3, dtype="float32")[LABELS],
    ],
    ids=["float", "bool", "column", "one-hot integers", "one-hot too wide"],
)
def test_labels_of_the_wrong_kind_are_refused(maker, y):
    refused(
        lambda: MAKERS[maker](loss=SOFTMAX)(PARAMS, X, y),
        ValueError,
        "a target is .*softmax_cross_entropy needs an int",
    )


@pytest.mark.parametrize("dtype", ["str", "object", "longdouble"])
def test_what_jax_has_no_dtype_for_is_refused(dtype):
    x, where = X.astype(dtype), f"x has dtype .*{'<U' if dtype == 'str' else ''}.*, which JAX does not have"
    for call in (
        lambda: jbp.predict(NETWORK, PARAMS, x),
        lambda: jbp.apply(NETWORK)(PARAMS, x),
        lambda: jbp.per_example(NETWORK, HALF)(PARAMS, x, Y),
        lambda: jbp.plain_loss(NETWORK, HALF)(PARAMS, x, Y),
        lambda: jbp.loss_function(NETWORK, HALF)(PARAMS, x, Y),
    ):
        refused(call, TypeError, where)
    for compiled in (
        jbp.value_and_grad,
        jbp.stream,
        partial(jbp.fused, interpret=True),
    ):  # refused by jax.jit, before anything of ours runs
        with pytest.raises(TypeError, match=r"Error interpreting argument.* path x"):
            compiled(NETWORK, HALF)(PARAMS, x, Y)


@pytest.mark.parametrize("call", [jbp.predict, lambda *args: jbp.apply(args[0])(*args[1:])], ids=["predict", "apply"])
def test_inputs_that_predict_and_apply_refuse(call):
    for x, error, message in (
        (X[None], ValueError, r"x has shape \(1, 6, 3\), expected \(3,\) or \(b, 3\)"),
        (X[:, :2], ValueError, r"x has shape \(6, 2\)"),
        (X[0].tolist(), TypeError, "x is a list: expected an array"),
        (X.astype(int), ValueError, "x has dtype int32"),
    ):
        refused(lambda x=x: call(NETWORK, PARAMS, x), error, message)
    refused(lambda: call(NETWORK, {"h0": PARAMS["h0"]}, X), ValueError, r"params has \['h0'\]")
    refused(lambda: call(PARAMS, NETWORK, X), TypeError, "network is a dict")


def test_no_examples_have_no_outputs():
    assert jbp.predict(NETWORK, PARAMS, X[:0]).shape == (0, 2)
    assert jbp.apply(NETWORK)(PARAMS, X[:0]).shape == (0, 2)
    gradient = jax.grad(lambda params, x: jnp.sum(jbp.apply(NETWORK)(params, x)), argnums=(0, 1))
    dparams, dx = jax.jit(gradient)(PARAMS, X[:0])
    assert dx.shape == (0, 3)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(dparams))


# One example


def test_forward_sweep_and_backward_refuse_what_is_not_one_example():
    f = jbp.forward(NETWORK, PARAMS, X[0])
    other = jbp.forward(LINEAR, {"yhat": {"x": X[:2]}}, X[0])
    batch = jax.vmap(lambda x: jbp.forward(NETWORK, PARAMS, x))(X)
    forward, sweep = partial(jbp.forward, NETWORK), partial(jbp.sweep, NETWORK, HALF, PARAMS)
    backward = partial(jbp.backward, NETWORK, PARAMS)
    for call, error, message in (
        (lambda: forward(PARAMS, X), ValueError, r"x has shape \(6, 3\), expected \(3,\)"),
        (lambda: forward(PARAMS, X[0].tolist()), TypeError, "x is a list"),
        (lambda: forward({}, X[0]), ValueError, r"params has \[\]"),
        (lambda: sweep(X, Y), ValueError, r"x has shape \(6, 3\), expected \(3,\)"),
        (lambda: sweep(X[0], Y), ValueError, r"a target has shape \(6, 2\), the output has \(2,\)"),
        (lambda: sweep(X[0], Y[0].tolist()), TypeError, "y is a list"),
        (lambda: sweep(X[0], None), TypeError, "y is a NoneType"),
        (lambda: sweep(X[0], Y[0], np.ones(2, "float32")), ValueError, r"weight has shape \(2,\): expected one number"),
        (lambda: sweep(X[0], Y[0], None), TypeError, "weight is a NoneType"),
        (lambda: backward(f, Y[0, :1]), ValueError, r"dyhat has shape \(1,\), yhat has \(2,\)"),
        (lambda: backward(f, np.float32(1)), ValueError, r"dyhat has shape \(\), yhat has \(2,\)"),
        (lambda: backward(f, [1.0, 2.0]), TypeError, "dyhat is a list"),
        (lambda: backward((f.z, f.h), Y[0]), TypeError, "f is a tuple: expected what jaxbackprop.forward returns"),
        (lambda: backward(other, Y[0]), ValueError, r"f.z has shapes \{'yhat': \(2,\)\}, expected"),
        (lambda: backward(batch, Y), ValueError, r"f.z has shapes .*vmap over a batch"),
        (lambda: jbp.backward(NETWORK, {}, f, Y[0]), ValueError, r"params has \[\]"),
    ):
        refused(call, error, message)


def test_a_plain_number_is_a_target():
    params = {"yhat": {"x": X[:1]}}
    for y in (2.0, 2, np.int32(2)):
        value, _, b = jax.eval_shape(lambda y=y: jbp.sweep(jbp.mlp((3, 1)), HALF, params, X[0], y))
        assert (value.shape, b.dz["yhat"].shape) == ((), (1,))
    half = jbp.losses.LOSSES[HALF]
    loss = (lambda yhat, y: half.value(yhat, y), lambda yhat, y: half.derivative(yhat, y))
    assert jbp.sweep(jbp.mlp((3, 1)), loss, params, X[0], 2)[0] == half.value(
        jnp.array([X[0] @ X[0]]), jnp.array([2.0])
    )


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            (jnp.sum, lambda z: z),
            r"the activation's value has shape \(\) for z of shape \(3,\): it must act elementwise",
        ),
        ((lambda z: z, lambda z: jnp.diag(z)), r"the activation's derivative has shape \(3, 3\) for z of shape \(3,\)"),
        ((lambda z: z, lambda z: z[:1]), r"the activation's derivative has shape \(1,\) for z of shape \(3,\)"),
    ],
)
def test_an_activation_that_is_not_elementwise_is_refused(pair, message):
    for make in (jbp.mlp, jbp.skip_mlp, jbp.dense_mlp):  # once, when it is wired
        refused(lambda make=make: make((3, 5, 4, 2), pair, bias=True), ValueError, f"layer 'h0': {message}")


# Readouts

READOUTS = (
    {
        name: getattr(jbp, name)
        for name in ["total", "norms", "moments", "gram", "noise_scale", "materialise", "compact", "kronecker"]
    }
    | {
        "squared_norms": jbp.readouts.squared_norms,
        "power_sums": jbp.variance.power_sums,
        "count_not_finite": jbp.readouts.count_not_finite,
        "project": lambda fg: jbp.project(fg, KEY, 2),
    }
    | {"clip": lambda fg: jbp.clip(fg, 1.0), "inner": lambda fg: jbp.inner(fg, PARAMS)}
)


@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_refuses_what_is_not_the_factored_gradient_of_a_batch(name):
    pair = jbp.per_example(NETWORK, HALF)(PARAMS, X, Y)
    for fg, kind in ((pair, "tuple"), (PARAMS, "dict"), (None, "NoneType")):
        message = f"fg is a {kind}: expected the FactoredGradient that per_example's function returns second"
        refused(lambda fg=fg: READOUTS[name](fg), TypeError, message)
    for change in (lambda a: a[0], lambda a: a[None]):  # of one example; of a stack of batches
        fg = jax.tree.map(change, pair[1])
        refused(
            lambda fg=fg: READOUTS[name](fg), ValueError, r"fg.dz\['h0'\] has shape .*, expected \(b, 5\).*jax.vmap"
        )


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize(
    ("max_norm", "error", "message"),
    [
        (0, ValueError, "max_norm is 0: expected a positive number"),
        (-1.0, ValueError, "max_norm is -1.0: expected a positive number"),
        (np.nan, ValueError, "max_norm is nan"),
        (np.inf, ValueError, "max_norm is inf"),
        (np.ones(2), ValueError, r"max_norm has shape \(2,\): expected one positive number"),
        ([1.0], TypeError, "max_norm is a list: expected a positive number"),
        (None, TypeError, "max_norm is a NoneType: expected a positive number"),
        ("1", TypeError, "max_norm is a str: expected a positive number"),
        (True, TypeError, "max_norm has dtype bool: expected a positive number"),
        (1j, TypeError, "max_norm has dtype complex64: expected a positive number"),
    ],
)
def test_a_bound_of_the_wrong_kind_is_refused(max_norm, per_layer, error, message):
    refused(lambda: jbp.clip(factored(), max_norm, per_layer), error, message)


def test_per_layer_is_no_second_bound():
    refused(lambda: jbp.clip(factored(), 1.0, 0.5), TypeError, "per_layer is 0.5: expected True or False")
    refused(lambda: jbp.clip(factored(), 1.0, nan_safe=1), TypeError, "nan_safe is 1: expected True or False")


@pytest.mark.parametrize("per_layer", [False, True])
def test_bounds_beyond_the_range_of_float32(per_layer):
    fg = factored()
    nothing = jax.tree.map(np.zeros_like, fg)
    for bound, expected in ((1e39, fg), (1e-46, nothing)):
        for one in (fg, nothing):
            dz = jbp.clip(one, bound, per_layer).dz
            assert all(np.array_equal(dz[t], expected.dz[t] if one is fg else nothing.dz[t]) for t in dz)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_bound_that_is_not_positive_gives_nan(bound):
    fg = factored()
    given = jax.jit(lambda bound: jbp.norms(jbp.clip(fg, bound)))(bound)
    assert np.isnan(given).all()
    sums = jbp.variance.power_sums(fg)
    given = jax.jit(lambda n: jbp.variance.moments_from(sums, n))(bound)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(given))


def test_numbers_of_examples_that_moments_from_refuses():
    sums = jbp.variance.power_sums(factored())
    for examples, error, message in (
        (0, ValueError, "examples is 0: expected a positive number"),
        (-6, ValueError, "examples is -6: expected a positive number"),
        (np.nan, ValueError, "examples is nan"),
        (np.ones(2), ValueError, r"examples has shape \(2,\)"),
        (None, TypeError, "examples is a NoneType: expected a positive number"),
        (True, TypeError, "examples has dtype bool"),
    ):
        refused(lambda n=examples: jbp.variance.moments_from(sums, n), error, message)
    for other, kind in ((PARAMS, "dict"), (jbp.variance.Moments(PARAMS, PARAMS), "Moments"), (None, "NoneType")):
        refused(
            lambda other=other: jbp.variance.moments_from(other, 6),
            TypeError,
            f"sums is a {kind}: expected the PowerSums",
        )


def test_weights_of_moments_are_at_least_zero_and_not_all_zero():
    fg = factored()
    negative = np.array([3, -1, 1, 1, 1, 1], "float32")  # whose variance would come out as 0 where it is below
    refused(lambda: jbp.moments(fg, negative), ValueError, "weight holds a number below 0: moments need weights of at")
    for weight in (negative, 0 * negative):
        given = jax.jit(lambda weight: jbp.moments(fg, weight))(weight)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(given))
    for readout in (jbp.total, jbp.variance.power_sums, jbp.moments):
        refused(lambda readout=readout: readout(fg, [1.0] * 6), TypeError, "weight is a list")
        refused(lambda readout=readout: readout(fg, np.ones(6, "complex64")), ValueError, "weight has dtype complex64")


def test_what_does_not_belong_to_the_network_is_refused():
    fg = factored()
    other = jbp.per_example(LINEAR, HALF)({"yhat": {"x": X[:2]}}, X, Y)[1]
    refused(
        lambda: jbp.gram(fg, other),
        ValueError,
        r"other is of another network, with parameters .*\(2, 3\).*; expected .*h0",
    )
    relu = jbp.per_example(jbp.skip_mlp((3, 5, 4, 2), bias=True), HALF)(PARAMS, X, Y)[1]
    assert jbp.gram(fg, relu).shape == (6, 6)  # gradients of the same parameters can be compared
    refused(lambda: jbp.gram(fg, PARAMS), TypeError, "other is a dict: expected the FactoredGradient")
    for direction, error, message in (
        (None, ValueError, "direction is a NoneType"),
        ({"h0": PARAMS["h0"]}, ValueError, r"direction has \['h0'\]"),
        (changed("h0", "bias", np.ones(3)), ValueError, r"direction\['h0'\]\['bias'\] has shape \(3,\)"),
        (changed("h0", "bias", [1.0] * 5), TypeError, r"direction\['h0'\]\['bias'\] is a list"),
        (changed("h0", "bias", np.ones(5, int)), ValueError, r"direction\['h0'\]\['bias'\] has dtype int32"),
    ):
        refused(lambda direction=direction: jbp.inner(fg, direction), error, message)
    refused(lambda: jbp.noise_scale(factored(X[:1], Y[:1])), ValueError, "the batch has 1 example.*at least 2")


# Right answers for what looks odd

LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "Fortran order": np.asfortranarray,
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "every other": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every third column": lambda a: np.repeat(a, 3, axis=-1)[..., ::3],
    "backwards, every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::-1][..., ::-2],
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "on the device": jnp.asarray,
}


def read_only(a):
    a = a if isinstance(a, jax.Array) else a.view()
    if not isinstance(a, jax.Array):
        a.setflags(write=False)
    return a


@settings(max_examples=15)
@given(*[st.sampled_from(list(LAYOUTS))] * 4)
def test_the_layout_in_memory_changes_nothing(of_params, of_x, of_y, of_weight):
    layouts = [LAYOUTS[name] for name in (of_params, of_x, of_y, of_weight)]
    params = jax.tree.map(lambda a: read_only(layouts[0](a)), PARAMS)
    x, y, weight = (read_only(lay(a)) for lay, a in zip(layouts[1:], (X, Y, WEIGHT), strict=True))
    for layout, a in zip(layouts[1:], (X, Y, WEIGHT), strict=True):
        assert np.array_equal(layout(a), a)
    for name in ("value_and_grad", "stream", "per_example"):
        expected = BATCH[name](PARAMS, X, Y) if name == "per_example" else BATCH[name](PARAMS, X, Y, WEIGHT)
        found = BATCH[name](params, x, y) if name == "per_example" else BATCH[name](params, x, y, weight)
        assert all(map(np.array_equal, *map(jax.tree.leaves, (found, expected))))
    assert np.array_equal(jbp.total(factored(x, y), weight)["h0"]["x"], jbp.total(factored(), WEIGHT)["h0"]["x"])


def test_layouts_change_nothing_for_trace_exercise_and_evaluate():
    shapes = ((4, 3), (3, 4), (2, 3), (2, 4))
    w = exercise.Weights(*(np.random.default_rng(0).normal(size=shape).astype("float32") for shape in shapes))
    gradient = jax.jit(exercise.gradient)
    expected = jbp.trace(NETWORK, HALF, PARAMS, X[0], Y[0]), gradient(w, X[0], Y[0])
    for name in ("Fortran order", "backwards, every other", "unaligned"):
        lay = LAYOUTS[name]
        params, x, y = jax.tree.map(lay, PARAMS), lay(X), lay(Y)
        for found, row in zip(jbp.trace(NETWORK, HALF, params, x[0], y[0]).rows, expected[0].rows, strict=True):
            assert np.array_equal(found.value, row.value)
        assert jbp.evaluate(NETWORK, HALF, params, (x, y)) == jbp.evaluate(NETWORK, HALF, PARAMS, (X, Y))
        assert all(map(np.array_equal, gradient(exercise.Weights(*map(lay, w)), x[0], y[0]), expected[1]))


def test_lists_and_plain_numbers_where_one_example_is_worked():
    expected = jbp.trace(EXERCISE, HALF, NUMBER, np.array([2.0]), np.array([1.0]))
    for x, y in ((2, [1.0]), ([2], (1.0,)), (np.float16(2), jnp.array([1.0]))):
        given = jbp.trace(EXERCISE, HALF, NUMBER, x, y)
        assert [row.value for row in given.rows] == [row.value for row in expected.rows]
    w = exercise.Weights(0.5, 2.0, -1.0, 3.0)
    for kind in (np.float32, np.array):
        given = exercise.gradient(exercise.Weights(*map(kind, w)), kind(2.0), kind(0.0))
        assert [float(d) for d in given] == [2.0, -1.0, 2.0, 1.0]


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_targets_and_weights_of_integers_are_those_numbers(dtype):
    y, weight = (
        (np.arange(12).reshape(6, 2) % 3).astype(dtype),
        (np.arange(6) % 2).astype(dtype if dtype == "int32" else bool),
    )

    @jax.jit
    def run(y, weight):
        fg = jbp.per_example(NETWORK, HALF)(PARAMS, X, y)[1]
        dparams_dx = jax.grad(BATCH["loss_function"], argnums=(0, 1))(PARAMS, X, y, weight)
        return BATCH["value_and_grad"](PARAMS, X, y, weight), jbp.total(fg, weight), dparams_dx

    given, expected = run(y, weight), run(y.astype("float32"), weight.astype("float32"))
    oracle.assert_close(given, expected)
    oracle.assert_close(given[2][0], given[0][1])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_labels_of_any_integer_dtype(dtype):
    network = jbp.mlp((3, 300))  # more classes than an int8 or a uint8 can count
    params = {"yhat": {"x": np.random.default_rng(0).normal(size=(300, 3)).astype("float32")}}
    one_hot = jax.nn.one_hot(LABELS, 300)
    value, dyhat = jax.jit(jax.vmap(lambda x, y: jbp.sweep(network, SOFTMAX, params, x, y)[::2]))(
        X, LABELS.astype(dtype)
    )
    expected = jax.jit(jax.vmap(jax.value_and_grad(oracle.LOSSES[SOFTMAX])))(X @ params["yhat"]["x"].T, one_hot)
    oracle.assert_close((value, dyhat.dz["yhat"]), expected)


def test_dicts_of_other_kinds_are_parameters():
    ordered = OrderedDict((t, OrderedDict(edges)) for t, edges in reversed(PARAMS.items()))
    for name in ("value_and_grad", "stream", "per_example"):
        oracle.assert_close(BATCH[name](ordered, X, Y), BATCH[name](PARAMS, X, Y))
    for loss in (BATCH["loss_function"], lambda params, x, y: jnp.sum(jbp.apply(NETWORK)(params, x))):
        given = jax.jit(jax.grad(loss))(ordered, X, Y)
        assert isinstance(given, OrderedDict)
        expected = jax.jit(jax.grad(loss))(PARAMS, X, Y)
        oracle.assert_close({t: dict(edges) for t, edges in given.items()}, expected)


def test_a_batch_of_one_is_that_example():
    x, y = X[1:2], Y[1:2]
    value, f, b = jax.jit(partial(jbp.sweep, NETWORK, HALF))(PARAMS, X[1], Y[1])
    found = every_readout(PARAMS, x, y)
    gradient = jax.tree.map(lambda a: a[0], found["each"])
    oracle.assert_close((found["values"][0], gradient["h1"]["bias"]), (value, b.dz["h1"]))
    oracle.assert_close(gradient["h1"]["h0"], jnp.outer(b.dz["h1"], f.h["h0"]))
    for function in (BATCH["value_and_grad"], BATCH["stream"]):
        oracle.assert_close(function(PARAMS, x, y), (value, gradient))
    oracle.assert_close(found["gram"][0, 0], found["norms"][0] ** 2)
    assert all(float(np.max(leaf)) <= 1e-6 for leaf in jax.tree.leaves(found["moments"].variance))


@jax.jit
def every_readout(params, x, y):
    values, fg = jbp.per_example(NETWORK, HALF)(params, x, y)
    return {
        "values": values,
        "norms": jbp.norms(fg),
        "inner": jbp.inner(fg, PARAMS),
        "each": jbp.materialise(fg),
        "gram": jbp.gram(fg),
        "total": jbp.total(fg),
        "moments": jbp.moments(fg),
        "clipped": jbp.total(jbp.clip(fg, 0.5)),
        "lost": jbp.readouts.count_not_finite(fg),
    }


def others(row):
    return np.delete(np.arange(6), row)


@settings(max_examples=10)
@given(st.permutations(range(6)))
def test_permuting_the_batch_permutes_each_examples_readouts(order):
    given, expected = every_readout(PARAMS, X[order], Y[order]), every_readout(PARAMS, X, Y)
    for name in ("values", "norms", "inner", "each"):
        oracle.assert_close(given[name], jax.tree.map(lambda a: a[np.array(order)], expected[name]))
    oracle.assert_close(given["gram"], expected["gram"][np.ix_(order, order)])
    for name in ("total", "clipped"):
        oracle.assert_close(given[name], expected[name], 1e-5)


def test_the_sum_over_the_examples_is_the_total():
    with jax.enable_x64(True):
        params, x, y = draw(NETWORK, HALF, 6, "float64")
        values, (each, _) = oracle.per_example(NETWORK, HALF, params, x, y)
        given = jbp.per_example(NETWORK, HALF)(params, x, y)
        expected = jax.tree.map(lambda d: np.sum(np.asarray(d), axis=0), each)
        oracle.assert_close(jbp.total(given[1]), expected)
        oracle.assert_close(jbp.value_and_grad(NETWORK, HALF, "sum")(params, x, y), (values.sum(), expected))


# NaN, infinity, and numbers that a dtype cannot hold


@settings(max_examples=20)
@given(st.integers(0, 5), st.integers(0, 1), st.booleans(), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_an_example_that_is_not_finite_reaches_the_sums_and_no_other_example(row, column, in_x, bad):
    x, y = X.copy(), Y.copy()
    (x if in_x else y)[row, column] = bad
    given, expected = every_readout(PARAMS, x, y), every_readout(PARAMS, X, Y)
    kept = others(row)
    # tanh of infinity is 1: such an example has a finite loss, and an infinite h in its gradient, or 0 · inf
    assert not np.isfinite(given["norms"][row])
    assert not np.isfinite(given["gram"][row, row])
    for name in ("values", "norms", "inner", "each"):
        oracle.assert_close(*(jax.tree.map(lambda a: a[kept], some[name]) for some in (given, expected)))
    assert not np.isfinite(given["total"]["h0"]["x"]).all()
    assert not np.isfinite(given["moments"].mean["h0"]["x"]).all()
    assert not np.isfinite(given["moments"].variance["h0"]["x"]).all()
    assert int(given["lost"]) == 1
    factor = np.minimum(1, 0.5 / np.asarray(expected["norms"]))
    clipped = jax.tree.map(lambda d: np.tensordot(factor[kept], d[kept], 1), expected["each"])
    oracle.assert_close(given["clipped"], clipped)
    if np.isnan(bad):
        assert np.isnan(given["values"][row])
        for name in ("value_and_grad", "stream", "plain_loss", "loss_function"):
            found = BATCH[name](PARAMS, x, y)
            assert np.isnan(found[0] if isinstance(found, tuple) else found)
            if isinstance(found, tuple):
                assert np.isnan(found[1]["h0"]["x"]).any()


@pytest.mark.parametrize("layer", ["h0", "yhat"])
@pytest.mark.parametrize("loss", [HUBER, SOFTMAX, BINARY])
def test_nan_in_a_parameter_reaches_every_example(layer, loss):
    params = changed(layer, "bias", np.full_like(PARAMS[layer]["bias"], np.nan))
    y = LABELS if loss == SOFTMAX else Y
    assert np.isnan(jbp.predict(NETWORK, params, X)).all()
    values, fg = jbp.per_example(NETWORK, loss)(params, X, y)
    assert np.isnan(values).all()
    assert np.isnan(jbp.norms(fg)).all()
    assert int(jbp.readouts.count_not_finite(fg)) == 6
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(jbp.total(jbp.clip(fg, 1.0))))


def test_nan_stays_where_no_class_is_likely():
    nan = jnp.full(2, jnp.nan, "float32")
    for p in ([0.0, 0.0], [1.0, 0.0], [0.5, 0.5]):
        assert np.isnan(jbp.losses.LOSSES[SOFTMAX].value(nan, jnp.array(p)))
        assert np.isnan(jbp.losses.LOSSES[SOFTMAX].derivative(nan, jnp.array(p))).all()
    # while a class that cannot be costs nothing where it is not the target
    certain = jnp.array([0.0, -jnp.inf])
    assert float(jbp.losses.LOSSES[SOFTMAX].value(certain, jnp.array([1.0, 0.0]))) == 0
    assert float(jbp.losses.LOSSES[SOFTMAX].value(certain, jnp.array([0.0, 1.0]))) == np.inf
    assert np.isfinite(jax.grad(jbp.losses.LOSSES[SOFTMAX].value)(jnp.array([0.0, -1e4]), jnp.array([1.0, 0.0]))).all()


@pytest.mark.parametrize("bad", [-1, 2, 200])
def test_a_class_that_does_not_exist_gives_nan_and_in_a_trace_one_line(bad):
    y = LABELS.copy()
    y[3] = bad
    values, fg = jbp.per_example(NETWORK, SOFTMAX)(PARAMS, X, y)
    assert np.array_equal(np.isnan(values), np.arange(6) == 3)
    assert np.array_equal(np.isnan(jbp.norms(fg)), np.arange(6) == 3)
    for make in (jbp.value_and_grad, jbp.stream):
        value, grads = make(NETWORK, SOFTMAX)(PARAMS, X, y)
        assert np.isnan(value)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(grads))
    refused(lambda: jbp.evaluate(NETWORK, SOFTMAX, PARAMS, (X, y)), ValueError, "y holds classes .* 2 outputs: 0 to 1")
    refused(
        lambda: jbp.trace(NETWORK, SOFTMAX, PARAMS, X[0], bad),
        ValueError,
        f"y is class {bad}.* 2 outputs: expected 0 to 1",
    )


@pytest.mark.parametrize("weight", [np.zeros(6), np.array([1, -1, 2, -2, 0, 0])], ids=["zero", "cancelling"])
def test_weights_that_add_up_to_zero_have_no_mean(weight):
    for name in ("value_and_grad", "plain_loss", "loss_function"):
        found = BATCH[name](PARAMS, X, Y, weight.astype("float32"))
        assert all(not np.isfinite(leaf).any() for leaf in jax.tree.leaves(found))
    given = jbp.value_and_grad(NETWORK, HALF, "sum")(PARAMS, X, Y, weight.astype("float32"))
    each = every_readout(PARAMS, X, Y)
    expected = jax.tree.map(lambda a: jnp.tensordot(weight.astype("float32"), a, 1), (each["values"], each["each"]))
    oracle.assert_close(given, expected)


@settings(max_examples=15)
@given(st.lists(st.floats(-4, 4, width=16), min_size=6, max_size=6).filter(lambda c: abs(sum(c)) > 0.5))
def test_negative_weights_are_weights(weight):
    each = jax.tree.map(lambda a: np.asarray(a, np.float64), every_readout(PARAMS, X, Y))
    c = np.array(weight)
    expected = jax.tree.map(lambda a: np.tensordot(c, a, 1) / c.sum(), (each["values"], each["each"]))
    given = BATCH["value_and_grad"](PARAMS, X, Y, c.astype("float32"))
    scale = np.abs(c).sum() / abs(c.sum())
    for g, e, d in zip(*map(jax.tree.leaves, (given, expected, (each["values"], each["each"]))), strict=True):
        assert np.max(np.abs(g - e)) <= 1e-5 * scale * np.max(np.abs(d))


def assert_right_or_not_finite(given, expected, tolerance):
    """Each number that is finite is right; and what the dtype can hold with room to spare is finite."""
    for g, e in zip(*map(jax.tree.leaves, (given, expected)), strict=True):
        largest = float(jnp.finfo(g.dtype).max)
        g64, e64 = np.asarray(g, np.float64), np.asarray(e, np.float64)
        finite = np.isfinite(g64)
        assert np.all(np.abs(g64 - e64)[finite] <= tolerance * np.max(np.abs(e64)))
        assert not np.any(finite & (np.abs(e64) > 1.01 * largest))


@pytest.mark.parametrize(
    ("dtype", "scales", "tolerance"),
    [
        ("float16", (1.0, 30.0, 300.0, 3e3, 6e4), 0.02),
        ("float32", (1e10, 1e19, 1e30), 1e-5),
    ],
)
def test_what_a_dtype_cannot_hold_is_infinite_or_nan_never_another_number(dtype, scales, tolerance):
    network = jbp.mlp((3, 4, 2), "identity", bias=True)
    params, x, y = draw(network, HALF, 5, dtype)
    seen = set()
    for scale in scales:
        wide = jnp.asarray(
            np.clip(np.asarray(x, np.float64) * scale, *[s * float(jnp.finfo(dtype).max) for s in (-1, 1)]), dtype
        )
        run = jbp.value_and_grad(network, HALF)(params, wide, y)
        values, fg = jbp.per_example(network, HALF)(params, wide, y)
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (params, wide, y))
            expected_values, (each, _) = jax.tree.map(np.asarray, oracle.per_example(network, HALF, *exact))
            squares = sum(np.sum(np.asarray(d).reshape(5, -1) ** 2, axis=1) for d in jax.tree.leaves(each))
            mean = jax.tree.map(lambda d: np.asarray(d).mean(axis=0), (expected_values, each))
        assert_right_or_not_finite(run, mean, tolerance)
        assert_right_or_not_finite(
            (values, jbp.total(fg)), (expected_values, jax.tree.map(lambda d: d.sum(0), each)), tolerance
        )
        assert_right_or_not_finite(jbp.norms(fg), np.sqrt(squares), tolerance)
        seen.add(bool(np.isfinite(run[0])))
    assert seen == {True, False}


DTYPES = {"float16": 0.02, "bfloat16": 0.1, "float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize(
    ("of_params", "of_x", "of_y"),
    [
        ("bfloat16", "float16", "float32"),
        ("bfloat16", "float64", "float16"),
        ("float64", "float32", "bfloat16"),
    ],
)
def test_mixed_dtypes(of_params, of_x, of_y):
    """A gradient has the dtype of what it is the gradient of, and the precision of the narrowest dtype on the way."""
    tolerance = max(DTYPES[dtype] for dtype in (of_params, of_x, of_y))

    def gradients(params, x, y):
        hand = BATCH["value_and_grad"](params, x, y)[1]
        streamed = jbp.stream(NETWORK, HALF, tile=3)(params, x, y)[1]
        rule = jax.grad(BATCH["loss_function"])(params, x, y)
        rules = jax.grad(BATCH["loss_function"], argnums=(0, 1))(params, x, y)
        applied = jax.grad(lambda *args: jnp.mean(jbp.apply(NETWORK)(*args).astype("float32")), argnums=(0, 1))(
            params, x
        )
        return hand, jax.tree.map(lambda d, p: (d / 6).astype(p.dtype), streamed, params), rule, *rules, *applied

    def expected(params, x, y):
        dparams, dx = jax.grad(jbp.plain_loss(NETWORK, HALF), argnums=(0, 1))(params, x, y)
        applied = jax.grad(lambda *args: jnp.mean(jbp.predict(NETWORK, *args)), argnums=(0, 1))(params, x)
        return dparams, dparams, dparams, dparams, dx, *applied

    with jax.enable_x64(True):
        params, x, y = draw(NETWORK, HALF, 6, "float64")
        params, x, y = jax.tree.map(lambda a: a.astype(of_params), params), x.astype(of_x), y.astype(of_y)
        right = jax.jit(expected)(*jax.tree.map(lambda a: a.astype("float64"), (params, x, y)))
        like = (params, params, params, params, x, params, x)
        found = compiled(gradients)(params, x, y)
        oracle.assert_close(found, jax.tree.map(lambda d, a: d.astype(a.dtype), right, like), tolerance)


def test_numpy_float64_is_float32_where_64_bit_types_are_off():
    wide = jax.tree.map(lambda a: a.astype("float64"), (PARAMS, X, Y))
    for name in ("value_and_grad", "loss_function", "plain_loss", "per_example", "stream"):
        oracle.assert_close(BATCH[name](*wide), BATCH[name](PARAMS, X, Y))
    oracle.assert_close(jbp.predict(NETWORK, *wide[:2]), jbp.predict(NETWORK, PARAMS, X))


# fused, step by step, tiny


def test_fused_takes_what_stream_takes():
    network = jbp.mlp((2, 2))
    params, x, y = jax.tree.map(np.array, draw(network, HALF, 3, "float32"))
    weight = np.array([1, 0, 2])
    run = jbp.fused(network, HALF, interpret=True)
    expected = jbp.stream(network, HALF)(params, x, y, weight)
    strange = jax.tree.map(LAYOUTS["backwards, every other"], (params, x, y))
    oracle.assert_close(run(*strange, weight), expected)
    y[1, 0] = np.nan
    value, grads = run(params, x, y, weight)
    assert np.isnan(value)
    assert np.isnan(grads["yhat"]["x"][0]).all()
    assert np.isfinite(grads["yhat"]["x"][1]).all()


# evaluate, trace


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mlp", HALF, PARAMS, (X, Y)), TypeError, "network is a str"),
        ((NETWORK, "mse", PARAMS, (X, Y)), ValueError, "unknown loss 'mse'"),
        ((NETWORK, None, PARAMS, (X, Y)), TypeError, "loss is None"),
        ((NETWORK, HALF, {}, (X, Y)), ValueError, r"params has \[\]"),
        ((NETWORK, HALF, PARAMS, (X[:, :2], Y)), ValueError, r"x has shape \(6, 2\)"),
        ((NETWORK, HALF, PARAMS, (X.astype(int), Y)), ValueError, "x has dtype int32"),
        ((NETWORK, HALF, PARAMS, (X, Y[:, :1])), ValueError, r"a target has shape \(1,\)"),
        ((NETWORK, SOFTMAX, PARAMS, (X, LABELS.astype("float32"))), ValueError, "needs an integer class"),
    ],
)
def test_what_evaluate_refuses(arguments, error, message):
    refused(lambda: jbp.evaluate(*arguments), error, message)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "mlp"}, TypeError, "network is a str"),
        ({"loss": "mse"}, ValueError, "unknown loss 'mse'"),
        ({"loss": None}, TypeError, "loss is None"),
        ({"loss": (Unhashable(), Unhashable())}, TypeError, "loss cannot be hashed"),
        ({"params": NUMBER | {"h0": {"x": None}}}, TypeError, r"params\['h0'\]\['x'\] is a NoneType"),
        ({"params": NUMBER | {"h0": {"x": [[1.0]]}}}, TypeError, r"params\['h0'\]\['x'\] is a list"),
        ({"params": NUMBER | {"h0": {"x": np.ones((2, 1))}}}, ValueError, r"params\['h0'\]\['x'\] has shape \(2, 1\)"),
        ({"x": None}, TypeError, "x has dtype object: expected real numbers"),
        ({"x": "1"}, TypeError, "x has dtype <U1: expected real numbers"),
        ({"x": 1j}, TypeError, "x has dtype complex128: expected real numbers"),
        ({"x": [[1.0], [1.0, 2.0]]}, TypeError, "x is a list that makes no array"),
        ({"x": [1.0, 2.0]}, ValueError, r"x has shape \(2,\), expected \(1,\)"),
        ({"x": [[1.0]]}, ValueError, r"x has shape \(1, 1\), expected \(1,\)"),
        ({"y": None}, TypeError, "y has dtype object: expected real numbers"),
        ({"y": "1"}, TypeError, "y has dtype <U1: expected real numbers"),
        ({"y": 1j}, TypeError, "y has dtype complex128"),
        ({"y": [1.0, 2.0]}, ValueError, r"a target has shape \(2,\), the output has \(1,\)"),
        ({"loss": SOFTMAX, "y": 1}, ValueError, "y is class 1, the network has 1 outputs: expected 0 to 0"),
        ({"loss": SOFTMAX, "y": 0.0}, ValueError, "needs an integer class"),
        *(({"digits": d}, ValueError, "digits is .*: expected 1 to 17") for d in (0, 18, True, 1.5, "6", np.nan)),
    ],
)
def test_what_trace_refuses(change, error, message):
    arguments = {"network": EXERCISE, "loss": HALF, "params": NUMBER, "x": 1.0, "y": 2.0} | change
    refused(lambda: jbp.trace(**arguments), error, message)


def test_trace_is_not_for_programs_to_be_compiled():
    refused(
        lambda: jax.jit(lambda x: jbp.trace(EXERCISE, HALF, NUMBER, x, 2.0).value)(1.0), TypeError, "x is a .*Tracer"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("loss", [HALF, HUBER, SOFTMAX, BINARY])
def test_a_trace_shows_what_is_not_finite(bad, loss):
    traced = jbp.trace(EXERCISE, loss, NUMBER, bad, 0 if loss == SOFTMAX else 1.0)
    for text in (traced.text(), traced.markdown(), traced.latex(), str(traced.to_dict())):
        if bad in (np.nan, np.inf):
            assert "nan" in text or "inf" in text
    if np.isnan(bad):
        assert np.isnan(traced.value)
        assert np.isnan(traced.difference)


# The gradient check


def squares(p):
    return jnp.sum(p**2)


ONES = jnp.arange(1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0, squares, ONES), TypeError, "value is a float: expected a function"),
        ((squares, None, ONES), TypeError, "gradient is a NoneType: expected a function"),
        ((squares, jax.grad(squares), "params"), ValueError, "params holds no floating-point arrays"),
        ((squares, jax.grad(squares), {"w": "w"}), ValueError, "params holds no floating-point arrays"),
        ((squares, jax.grad(squares), np.array([None])), TypeError, "params has dtype object, which JAX does not have"),
        ((squares, jax.grad(squares), None), ValueError, "params holds no floating-point arrays.*nothing to check"),
        ((squares, jax.grad(squares), jnp.zeros((0, 3))), ValueError, "holds no floating-point arrays, or empty ones"),
        ((squares, jax.grad(squares), jnp.arange(3)), ValueError, r"no floating-point arrays.*\(params has none\)"),
        ((squares, squares, ONES + 1j), ValueError, "value returns complex64, expected a floating-point"),
        ((squares, jax.grad(squares), ONES * np.nan), ValueError, "params holds NaN or infinity"),
        ((lambda p: jnp.int32(3), squares, ONES), ValueError, "value returns int32, expected a floating-point scalar"),
        ((lambda p: jnp.sum(p) * 1j, squares, ONES), ValueError, "value returns complex64, expected a floating-point"),
        ((lambda p: p, squares, ONES), ValueError, r"value returns shape \(2,\), expected a scalar"),
        ((lambda p: None, squares, ONES), ValueError, "value returns a NoneType, expected a scalar"),
        ((squares, lambda p: "2p", ONES), TypeError, "gradient's result is a str: expected an array"),
        ((lambda p, s: squares(p), lambda p, s: 2 * p, ONES, np.array(["a"])), TypeError, r"data\[0\] has dtype <U1"),
        ((lambda p, s: s * squares(p), lambda p, s: 2 * s * p, ONES, np.nan), ValueError, "value is not finite"),
    ],
)
def test_what_check_gradient_refuses(arguments, error, message):
    refused(lambda: jbp.check_gradient(*arguments), error, message)
    refused(lambda: jbp.assert_gradient(*arguments), error, message)


@pytest.mark.parametrize("key", [0, "key", jax.random.split(KEY)])
def test_what_is_no_key_is_refused_before_anything_is_compiled(key):
    refused(
        lambda: jbp.check_gradient(squares, jax.grad(squares), ONES, key=key), TypeError, "key .*: expected one key"
    )
    refused(lambda: jbp.check_vjp(jnp.sin, ONES, key=key), TypeError, "key .*: expected one key")


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((None, ONES), {}, TypeError, "f is a NoneType: expected a function"),
        ((jnp.sin, ONES), {"reference": 3}, TypeError, "reference is a int: expected a function"),
        ((jnp.sin,), {}, ValueError, "no argument holds floating-point arrays"),
        ((jnp.sin, 3), {}, ValueError, "no argument holds floating-point arrays"),
        ((jnp.sin, "float32"), {}, ValueError, "no argument holds floating-point arrays"),
        ((jnp.sin, ONES), {"reference": jnp.sum}, ValueError, "f returns .* they must be the same function"),
        # what would be called right, as nothing of it is checked
        ((jnp.argmax, ONES), {}, ValueError, "f returns no floating-point array: there is nothing to differentiate"),
        ((lambda a: None, ONES), {}, ValueError, "f returns no floating-point array"),
        ((lambda a: a * 1j, ONES), {}, ValueError, "f returns a complex array: give the real and the imaginary part"),
        ((lambda a: (a, a * 1j), ONES), {}, ValueError, "f returns a complex array"),
        ((jnp.sin, ONES * np.inf), {"reference": jnp.sin}, ValueError, "holds NaN or infinity"),
        ((jnp.sin, ONES), {}, NoRuleError, "f has no derivative rule of its own.*give reference=.*check_gradient"),
        ((jax.nn.relu, ONES), {}, NoRuleError, r"no derivative rule of its own \(only JAX's own"),
    ],
)
def test_what_check_vjp_refuses(arguments, settings, error, message):
    refused(lambda: jbp.check_vjp(*arguments, **settings), error, message)


# The exercise


def matrices(w0=np.ones((4, 3)), w1=np.ones((3, 4)), w2=np.ones((2, 3)), w3=np.ones((2, 4))):  # noqa: B008
    return exercise.Weights(w0, w1, w2, w3)


ONE = np.ones(3)
NUMBERS = exercise.Weights(0.5, 2.0, -1.0, 3.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exercise.forward((0.5, 2.0, -1.0, 3.0), 2.0), TypeError, "w is a tuple: expected exercise.Weights"),
        (
            lambda: exercise.forward(NUMBERS._replace(w0=None), 2.0),
            TypeError,
            "w0 is a NoneType: expected a number or an",
        ),
        (
            lambda: exercise.forward(NUMBERS._replace(w0=[[1.0]]), 2.0),
            TypeError,
            "w0 is a list: expected a number or an",
        ),
        (lambda: exercise.forward(NUMBERS, "2"), TypeError, "x is a str: expected a number or an array"),
        (
            lambda: exercise.forward(matrices(), [1.0, 2.0, 3.0]),
            TypeError,
            "x is a list: expected a number or an array",
        ),
        (lambda: exercise.forward(matrices(), ONE.astype(str)), TypeError, "x has dtype <U32, which JAX does not have"),
        (
            lambda: exercise.forward(matrices(w0=np.ones((1, 4, 3))), ONE),
            ValueError,
            r"w0 has shape \(1, 4, 3\), expected",
        ),
        (lambda: exercise.forward(matrices(), ONE[:0]), ValueError, r"w0 has shape \(4, 3\), expected \(4, 0\)"),
        (lambda: exercise.forward(matrices(), np.ones((2, 3))), ValueError, "one example; vmap over a batch"),
        (lambda: exercise.gradient(matrices(), ONE, None), TypeError, "y is a NoneType: expected a number or an array"),
        (lambda: exercise.gradient(matrices(), ONE, [1.0, 2.0]), TypeError, "y is a list"),
        (lambda: exercise.gradient(matrices(), ONE, ONE), ValueError, r"y has shape \(3,\), expected \(2,\)"),
        (lambda: exercise.loss(matrices(), ONE, ONE), ValueError, r"y has shape \(3,\), expected \(2,\)"),
        (lambda: exercise.gradient([1, 2, 3, 4], 1.0, 1.0), TypeError, "w is a list: expected exercise.Weights"),
        (
            lambda: exercise.backward(matrices(), ONE, tuple(exercise.forward(matrices(), ONE)), np.ones(2)),
            TypeError,
            "f is a tuple: expected exercise.Forward",
        ),
        (
            lambda: exercise.backward(NUMBERS, 2.0, exercise.forward(matrices(), ONE), np.ones(2)),
            ValueError,
            r"f.z0 has shape \(4,\), expected \(\): .*f is forward\(w, x\)",
        ),
        (
            lambda: exercise.backward(matrices(), ONE, exercise.forward(matrices(), ONE), [1.0, 2.0]),
            TypeError,
            "dyhat is a list",
        ),
    ],
)
def test_what_the_exercise_refuses(call, error, message):
    refused(call, error, message)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_exercise_carries_on_what_is_not_finite(bad):
    for w in (NUMBERS, exercise.Weights(*(np.full((1, 1), v) for v in NUMBERS))):
        x, y = (bad, 0.0) if w is NUMBERS else (np.array([bad]), np.zeros(1))
        assert not any(np.isfinite(d).any() for d in exercise.gradient(w, x, y))
        x, y = (2.0, bad) if w is NUMBERS else (np.array([2.0]), np.array([bad]))
        assert not any(np.isfinite(d).any() for d in exercise.gradient(w, x, y))


# Private training

PLAN = accounting.Plan(100, 10, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *(
            (lambda n=n: accounting.Plan(n, 1, 1), TypeError, "examples is .*: expected an integer of at least 1")
            for n in (1.5, True, "100", None, np.nan, [100])
        ),
        (lambda: accounting.Plan(100, np.array([10]), 1), TypeError, "batch_size is .*: expected an integer"),
        (lambda: accounting.Plan(100, 10, 1.5), TypeError, "epochs is 1.5: expected an integer of at least 1"),
        (lambda: accounting.Plan(100, 10, -1), ValueError, "epochs is -1: expected an integer of at least 1"),
        (lambda: jbp.private_gradient(None, 1.0), TypeError, "max_norm is a NoneType: expected a positive number"),
        (lambda: jbp.private_gradient(np.ones(1), 1.0), ValueError, r"max_norm has shape \(1,\)"),
        (lambda: jbp.private_gradient(np.nan, 1.0), ValueError, "max_norm is nan"),
        (lambda: jbp.private_gradient(True, 1.0), TypeError, "max_norm has dtype bool"),
        *(
            (lambda n=n: jbp.private_gradient(1.0, n), TypeError, "noise_multiplier is .*: expected a number")
            for n in (None, "1", True, np.ones(1), 1j)
        ),
        (
            lambda: jbp.private_gradient(1.0, np.nan),
            ValueError,
            "noise_multiplier is nan: expected a number of at least 0",
        ),
        (lambda: accounting.spent((100, 10, 1), 1.0, 1e-5), TypeError, "plan is a tuple: expected a Plan"),
        (lambda: accounting.spent(PLAN, None, 1e-5), TypeError, "noise_multiplier is None: expected a number"),
        (lambda: accounting.spent(PLAN, np.ones(1), 1e-5), TypeError, "noise_multiplier is .*: expected a number"),
        (
            lambda: accounting.spent(PLAN, np.nan, 1e-5),
            ValueError,
            "noise_multiplier is nan: expected a positive number",
        ),
        (lambda: accounting.spent(PLAN, 1.0, "1e-5"), TypeError, "delta is '1e-5': expected a number"),
        (lambda: accounting.spent(PLAN, 1.0, np.nan), ValueError, "delta is nan: expected a number between 0 and 1"),
        (lambda: accounting.calibrate(None, 1.0, 1e-5), TypeError, "plan is a NoneType: expected a Plan"),
        (lambda: accounting.calibrate(PLAN, "3", 1e-5), TypeError, "epsilon is '3': expected a number"),
        (lambda: accounting.calibrate(PLAN, True, 1e-5), TypeError, "epsilon is True: expected a number"),
        (lambda: accounting.calibrate(PLAN, np.nan, 1e-5), ValueError, "epsilon is nan: expected a positive number"),
        (lambda: accounting.calibrate(PLAN, 3.0, None), TypeError, "delta is None: expected a number"),
    ],
)
def test_what_private_training_refuses(call, error, message):
    refused(call, error, message)


def test_numbers_of_numpy_and_jax_are_numbers():
    expected = accounting.spent(PLAN, 1.5, 1e-5)
    plan = accounting.Plan(np.int64(100), np.int32(10), 1)  # in an int32, 2³² times the batch size would overflow
    assert accounting.spent(plan, jnp.float32(1.5), np.array(1e-5)) == expected
    jbp.private_gradient(np.float32(1.0), jnp.float32(1.5))
