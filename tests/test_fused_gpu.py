"""The kernel for NVIDIA GPUs, step by step on the CPU, against `vmap(jax.grad)` of plainly written losses; and that it lowers."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from test_backprop import draw
from test_fused import HAND_WIRED, clipped, compiled

import jaxbackprop as jbp
from jaxbackprop import Layer, Network
from jaxbackprop.doors import bare
from jaxbackprop.programs.flat import CALLS, flat, flatten, run
from jaxbackprop.scaling import kernel_gpu
from jaxbackprop.scaling.kernel_parts import part_of, plan_of
from jaxbackprop.scaling.padded import ELEMENTWISE, PaddingError, opened, padded_shape, run_padded

HALF, HUBER, SOFTMAX, SIGMOID = oracle.LOSSES
BOUND = 0.3
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


class Case(NamedTuple):
    network: Network
    loss: str
    batch: int
    block: int | None = 16
    programs: int | None = None
    classes: bool = False


CASES = {
    "the exercise": Case(jbp.skip_mlp((1, 1, 1, 1)), HALF, 38, programs=2),
    "width 1 in and out": Case(jbp.skip_mlp((1, 5, 20, 1), bias=True), HUBER, 33, programs=2),
    "powers of 2": Case(jbp.skip_mlp((16, 16, 32, 16)), HALF, 64, block=None),
    "uneven widths": Case(jbp.skip_mlp((3, 33, 17, 2), "tanh", bias=True), SIGMOID, 37, programs=5),
    "classes": Case(jbp.mlp((8, 20, 10), "sigmoid", bias=True), SOFTMAX, 70, programs=3, classes=True),
    "dense": Case(jbp.dense_mlp((5, 4, 1, 3), "softplus", bias=True), SOFTMAX, 35, block=32),
    "a dead end": Case(HAND_WIRED, HUBER, 20),
    "one example": Case(jbp.mlp((3, 20, 1), bias=True), HALF, 1),
    "wide": Case(jbp.dense_mlp((9, 128, 100, 3)), HALF, 17, block=None),
}


def drawn(case, dtype="float32"):
    params, x, y = draw(case.network, case.loss, case.batch, dtype)
    if case.classes:
        y = jax.random.randint(jax.random.key(3), (case.batch,), 0, case.network.layers[-1].width)
    return params, np.asarray(x) * np.where(np.arange(case.batch) == 0, 3, 1).astype(dtype)[:, None], y


def step_by_step(network, loss, readout=jbp.total, block=16, programs=None, **more):
    return compiled(jbp.fused(network, loss, readout, block, programs, interpret="gpu", **more))


def expected_of(case, params, x, y, weight):
    """Σ c L, Σ c dW, and Σ of c dW clipped to the bound, from gradients that are formed; how many are above it."""
    values, (each, _) = oracle.per_example(case.network, case.loss, params, x, y)
    each = jax.tree.map(lambda g: jnp.einsum("b,b...->b...", weight, g), each)
    n = jnp.sqrt(sum(jnp.sum(jnp.square(g).reshape(len(g), -1), axis=1) for g in jax.tree.leaves(each)))
    kept = jnp.minimum(1, BOUND / jnp.maximum(n, 1e-30))
    short = jax.tree.map(lambda g: jnp.einsum("b,b...->...", kept, g), each)
    return jnp.sum(weight * values), jax.tree.map(lambda g: g.sum(0), each), short, int(jnp.sum(n > BOUND))


def both(fg):
    return jbp.total(fg), jbp.total(jbp.clip(fg, BOUND))


@pytest.mark.parametrize("name", CASES)
def test_both_sums_against_gradients_that_are_formed(name):
    case = CASES[name]
    params, x, y = drawn(case)
    weight = np.resize(np.float32([1, 0, 0.5]), case.batch)
    value, total, short, above = expected_of(case, params, x, y, weight)
    assert above >= 1
    run = step_by_step(case.network, case.loss, both, case.block, case.programs)
    given = run(params, x, y, weight)
    oracle.assert_close(given, (value, (total, short)))
    assert jax.tree.all(jax.tree.map(np.array_equal, given, run(params, x, y, weight)))  # twice the same bits


def without_gelu(names):
    return [name for name in names if name != "gelu"]  # refused: below


@pytest.mark.parametrize("activation", without_gelu(oracle.ACTIVATIONS))
def test_every_activation(activation):
    layers = (Layer("a", 5, ("x",), activation, True), Layer("out", 2, ("a", "x"), activation))
    case = Case(Network(3, layers), HALF, 18)
    params, x, y = drawn(case)
    value, total, _, _ = expected_of(case, params, x, y, np.ones(18, "float32"))
    oracle.assert_close(step_by_step(case.network, HALF)(params, x, y), (value, total))


@pytest.mark.parametrize("loss", oracle.LOSSES)
@pytest.mark.parametrize("k", [1, 3])
def test_every_loss(loss, k):
    case = Case(jbp.mlp((4, 6, k), "sigmoid", bias=True), loss, 18)
    params, x, y = drawn(case)
    value, total, _, _ = expected_of(case, params, x, y, np.ones(18, "float32"))
    oracle.assert_close(step_by_step(case.network, loss)(params, x, y), (value, total))


SCALES = np.float32([1, 2, 3])


def of_all_kinds(yhat, y):
    """Columns, an array of its own, a maximum, a product, `any`, a sum of columns put together."""
    log_scale, there = yhat[1], jnp.any(y > 0) & jnp.all(y < 9)
    gauss = jnp.where(there, jnp.square(yhat[0] - y[0]) * jnp.exp(-log_scale) + log_scale, 0)
    return gauss + jnp.max(yhat) - jnp.min(yhat) + SCALES @ yhat**2 + jnp.sum(jnp.stack([yhat[2], y[1]]) ** 2)


def test_a_loss_and_an_activation_of_ones_own():
    network = jbp.mlp((4, 7, 3), lambda z: jnp.log1p(jnp.square(z)) + 1, bias=True)
    params, x, y = draw(network, HALF, 18, "float32")

    def plainly(params, x, y):
        h = jnp.log1p((x @ params["h0"]["x"].T + params["h0"]["bias"]) ** 2) + 1
        return jnp.sum(jax.vmap(of_all_kinds)(h @ params["yhat"]["h0"].T + params["yhat"]["bias"], y))

    oracle.assert_close(step_by_step(network, of_all_kinds)(params, x, y), jax.value_and_grad(plainly)(params, x, y))


def test_wherever_weights_and_sums_are_kept_the_numbers_are_the_same(monkeypatch):
    network = jbp.mlp((3, 20, 2))
    args, found = draw(network, HALF, 70, "float32"), []
    for stay in ((True, True), (False, True), (True, False)):
        monkeypatch.setattr(kernel_gpu, "launch_of", lambda *_, stay=stay: kernel_gpu.Launch(16, 4, *stay))
        jbp.scaling.streaming.compiled.cache_clear()
        found.append(step_by_step(network, HALF, programs=2)(*args))
    for given in found[1:]:
        assert jax.tree.all(jax.tree.map(np.array_equal, given, found[0]))


# ---- what must not be read


def program_of(case, readout=both, batch=None):
    """What the kernel runs on a block, and its inputs."""
    params, x, y = drawn(case)
    rows = [jnp.asarray(x), jnp.asarray(y)]
    sums = jbp.scaling.streaming.Sums(jbp.per_example(case.network, case.loss), readout, None)
    spec = jbp.scaling.kernel_parts.Spec(sums, 16, 1)
    part, _ = part_of(spec, plan_of(batch or 16, 16, 1), params, rows, kernel_gpu.swept)
    first = [jnp.zeros((16, *a.shape[1:]), a.dtype).at[: len(a)].set(a[:16]) for a in rows]
    program, own = opened(flat(jax.make_jaxpr(part)(jnp.int32(0), params, *first), inlined=CALLS))
    return program, [jnp.int32(0), *jax.tree.leaves(params), *first, *own]


def padded_with(beyond, a):
    fill = beyond if jnp.issubdtype(a.dtype, jnp.floating) else 77
    pad = [(0, n - m) for n, m in zip(padded_shape(a.shape), a.shape, strict=True)]
    return jnp.pad(a, pad, constant_values=fill) if pad else a


@pytest.mark.parametrize("name", ["uneven widths", "classes", "dense"])
def test_what_lies_beyond_an_axis_is_never_read(name):
    program, leaves = program_of(CASES[name])
    expected = [np.asarray(a) for a in compiled(partial(run, program))(leaves)]
    on_padded = compiled(partial(run_padded, program, operands=jnp.float32))
    for beyond in (np.nan, np.inf):
        padded = on_padded([padded_with(beyond, a) for a in leaves])
        given = [np.asarray(a)[tuple(map(slice, e.shape))] for a, e in zip(padded, expected, strict=True)]
        oracle.assert_close(given, expected)


def test_nan_is_kept_where_the_gpu_s_own_maximum_forgets_it():
    """maxnum(NaN, 0) is 0: so are Triton's max, min, clamp and reductions by them."""
    names = {"max": np.fmax, "min": np.fmin, "reduce_max": np.fmax.reduce, "reduce_min": np.fmin.reduce}

    def forgetful(step, *operands):
        assert step.name != "clamp"
        if step.name not in names or not np.issubdtype(np.asarray(operands[0]).dtype, np.floating):
            return step.bind(*operands)
        more = {"axis": step.settings["axes"]} if "axes" in step.settings else {}
        return [jnp.asarray(names[step.name](*map(np.asarray, operands), **more))]

    def f(a):
        bounded = (jnp.maximum(a, 0), jnp.minimum(1, a), jax.lax.clamp(0.0, a, 1.0), jnp.clip(a, 0, 1))
        return (*bounded, jnp.max(a, axis=1), jnp.min(a, axis=0), jnp.maximum(jnp.max(a), a[0, 0]))

    a = jnp.asarray([[1.0, np.nan, 3.0], [-4.0, 5.0, 6.0]])
    program = flatten(f, a)
    padded = flatten(lambda a: run_padded(program, [a], jnp.float32), padded_with(0, a))
    for given, expected in zip(run(padded, [padded_with(0, a)], forgetful), f(a), strict=True):
        np.testing.assert_array_equal(np.asarray(given)[tuple(map(slice, expected.shape))], expected)


@pytest.mark.parametrize("readout", [jbp.total, clipped])
def test_an_example_that_is_not_finite_counts_as_in_stream(readout):
    network = jbp.mlp((3, 20, 1), bias=True)
    params, x, y = draw(network, HUBER, 20, "float32")
    x = x.at[19].set(jnp.nan)  # the last: what fills up must not repeat it
    given = step_by_step(network, HUBER, readout)(params, x, y)
    expected = jbp.stream(network, HUBER, readout)(params, x, y)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), given, expected)


def test_what_fills_a_block_up_adds_nothing_even_where_the_loss_is_infinite():
    network = jbp.mlp((16, 16))
    loss = (lambda yhat, y: -jnp.sum(y * jnp.log(yhat)), lambda yhat, y: -y / yhat)  # at yhat = y = 0: NaN
    params = {"yhat": {"x": jnp.ones((16, 16))}}
    value, grads = step_by_step(network, loss)(params, jnp.ones((5, 16)), jnp.ones((5, 16)))
    oracle.assert_close(value, jnp.float32(-5 * 16 * np.log(16)))
    oracle.assert_close(grads["yhat"]["x"], jnp.full((16, 16), -5 / 16, "float32"))


# ---- half precision


def test_half_precision_rounds_the_operands_of_products_and_nothing_else():
    network = jbp.mlp((4, 5, 1))
    params, x, y = draw(network, HALF, 37, "bfloat16")
    value, grads = step_by_step(network, HALF)(params, x, y)
    W0, W1, x32, y32 = (np.asarray(a, "float32") for a in (params["h0"]["x"], params["yhat"]["h0"], x, y))

    def rounded(a):
        return np.asarray(jnp.asarray(a, "bfloat16"), "float32")

    z0 = x32 @ W0.T
    h0 = np.maximum(z0, 0)
    dz1 = np.sum(h0 * W1, axis=1, keepdims=True) - y32  # one column: multiplied and summed as it is
    dz0 = np.where(z0 < 0, 0, dz1 * W1)
    expected = np.sum(dz1**2) / 2, {"h0": {"x": rounded(dz0).T @ x32}, "yhat": {"h0": dz1.T @ h0}}
    expected = jax.tree.map(lambda a: jnp.asarray(a, "bfloat16"), expected)
    oracle.assert_close((value, grads), expected, 2**-8)
    same = np.concatenate([np.ravel(g == e) for g, e in zip(*map(jax.tree.leaves, (grads, expected[1])), strict=True)])
    assert same.mean() > 0.95  # but for the few that float32's own error takes over a boundary


def test_sums_are_float32_whatever_is_stored():
    params = {"yhat": {"x": jnp.ones((1, 1), "bfloat16")}}
    ones = jnp.ones((4096, 1), "bfloat16")
    value, grads = step_by_step(jbp.mlp((1, 1)), HALF, block=64, programs=2)(params, 2 * ones, ones)
    assert (float(value), float(grads["yhat"]["x"][0, 0])) == (2048, 8192)  # a bfloat16 sum of ones stops at 256


# ---- where things are kept, as compiled: experiments/kernel_compilation.py

LAUNCHES = {
    "float32": {
        jbp.skip_mlp((1, 1, 1, 1)): (1024, 4, True, True),
        jbp.skip_mlp((8, 64, 64, 1)): (64, 4, True, True),
        jbp.dense_mlp((20, 50, 50, 3), "tanh", bias=True): (16, 4, True, True),
        jbp.mlp((64, 128, 128, 10)): (16, 8, True, True),
        jbp.dense_mlp((64, 128, 128, 10), bias=True): (16, 8, False, False),
    },
    "bfloat16": {
        jbp.dense_mlp((64, 128, 128, 10), bias=True): (16, 8, True, False),
        jbp.mlp((64, 256, 256, 10)): (16, 8, False, False),
    },
}


@pytest.mark.parametrize("dtype", LAUNCHES)
def test_what_is_kept_on_the_chip(dtype):
    for network, expected in LAUNCHES[dtype].items():
        params, *rows = jax.eval_shape(partial(draw, network, HALF, 64, dtype))
        sums = jbp.scaling.streaming.Sums(jbp.per_example(network, HALF), jbp.total, None)
        spec = jbp.scaling.kernel_parts.Spec(sums, None, None)
        assert kernel_gpu.launch_of(spec, params, rows, (rows[0].dtype.type(0), params)) == expected, network


# ---- lowering


def lowered(function, args, *platforms):
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", None, "gpu"))):
        return jax.jit(function).trace(*args).lower(lowering_platforms=platforms).as_text()


@pytest.mark.parametrize("name", CASES)
def test_it_lowers_for_nvidia(name):
    case = CASES[name]
    args = drawn(case, "bfloat16" if name == "dense" else "float32")
    for readout in (jbp.total, clipped):
        run = jbp.fused(case.network, case.loss, readout, case.block, case.programs)
        assert "fused_sweep" in lowered(run, (*args, jnp.ones(case.batch)), "cuda")


def test_every_activation_lowers_but_those_refused():
    for name in oracle.ACTIVATIONS:
        network = Network(3, (Layer("yhat", 5, ("x",), name),))
        args = draw(network, HALF, 16, "float32")
        if name == "gelu":
            with pytest.raises(ValueError, match=r"erfc, at .*activations.py.* has no form there; jaxbackprop.stream"):
                lowered(jbp.fused(network, HALF), args, "cuda")
        else:
            lowered(jbp.fused(network, HALF), args, "cuda")


def test_a_loss_of_ones_own_lowers():
    network = jbp.mlp((4, 7, 3), bias=True)
    lowered(jbp.fused(network, of_all_kinds), draw(network, HALF, 18, "float32"), "cuda")


UNARY = """abs acos acosh asin asinh atan atanh cbrt ceil cos cosh erf_inv exp exp2 expm1 floor log log1p logistic neg rsqrt sign
sin sinh sqrt square tan tanh""".split()  # noqa: SIM905
BINARY = "add atan2 div mul nextafter pow rem sub".split()  # noqa: SIM905
OTHERS = "and convert_element_type eq ge gt integer_pow is_finite le lt ne not or select_n xor".split()  # noqa: SIM905


def all_steps(z):
    for name in UNARY:
        z = z + getattr(jax.lax, name)(z)
    for name in BINARY:
        z = z + getattr(jax.lax, name)(z, z + 1)
    there = jnp.isfinite(z) & ~((z < 1) | (z <= 2) ^ (z > 3)) & (z >= 4) | (z == 5) | (z != 6)
    return jnp.where(there, z, 0) + there.astype(z.dtype) + z**3


def test_every_elementwise_step_lowers():
    names = {step.name for step in flatten(all_steps, jnp.ones(3)).steps}
    assert {*UNARY, *BINARY, *OTHERS} == ELEMENTWISE
    assert names >= ELEMENTWISE, ELEMENTWISE - names
    network = Network(3, (Layer("yhat", 5, ("x",), (all_steps, jnp.ones_like)),))
    lowered(jbp.fused(network, HALF), draw(network, HALF, 16, "float32"), "cuda")


# ---- refusals


def refused(network, loss=HALF, match="", dtype="float32", **more):
    args = jax.eval_shape(lambda: draw(network, loss, 16, dtype))
    with pytest.raises(ValueError, match=match) as caught:
        lowered(jbp.fused(network, loss, **more), args, "cuda")
    assert "\n" not in str(caught.value)
    assert "jaxbackprop.stream" in str(caught.value)


def test_what_has_no_form_is_refused_by_name():
    network = jbp.mlp((3, 5, 3))
    refused(jbp.mlp((3, 5, 3), jnp.cumsum), match="cumsum, at .*has no form")
    refused(network, (lambda yhat, y: jnp.sort(yhat)[0], lambda yhat, y: yhat), match="sort")
    refused(network, (lambda yhat, y: jnp.sum(yhat[:2]), lambda yhat, y: yhat), match="a slice of 2 of 3")
    refused(
        network, (lambda yhat, y: jnp.sum(jnp.outer(yhat, yhat).reshape(-1)), lambda yhat, y: yhat), match="reshape"
    )


def test_what_does_not_fit_is_refused():
    refused(jbp.mlp((3, 256, 200, 1)), match=r"h0 256.* is too wide, it needs about [\d,]+ bytes.* there are 232,448")
    refused(jbp.mlp((3, 5, 1)), match="block is 48, expected a power of 2", block=48)
    with jax.enable_x64(True):
        refused(jbp.mlp((3, 5, 1)), match="float64 has no form there", dtype="float64")


def test_what_the_gpu_refuses_is_no_matter_to_others():
    network = jbp.mlp((3, 5, 1))
    run = jbp.fused(network, HALF, block=48)
    assert "tpu_custom_call" in lowered(run, draw(network, HALF, 16, "float32"), "tpu")
    with pytest.raises(ValueError, match=r"none for this device.*stream"):
        lowered(run, draw(network, HALF, 16, "float32"), "rocm")


@pytest.mark.parametrize("interpret", ["cuda", "", None])
def test_an_unknown_device_to_interpret_is_refused(interpret):
    with pytest.raises(ValueError, match=r"interpret is .*: expected False, or \"tpu\""):
        bare(jbp.fused)(HAND_WIRED, HUBER, interpret=interpret)


def test_a_reason_is_raised_not_computed():
    with pytest.raises(PaddingError, match="cumsum"):
        run_padded(flatten(jnp.cumsum, jnp.ones(3)), [jnp.ones(16)], jnp.float32)
