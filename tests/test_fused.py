"""The kernel, run step by step on the CPU, against `jax.grad`; and that it lowers for hardware that is not here."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from test_backprop import draw

import jaxbackprop as jbp
from jaxbackprop import Layer, Network

HALF, HUBER, SOFTMAX = "half_squared_error", "huber", "softmax_cross_entropy"
SMALL = jbp.mlp((3, 20, 1), bias=True)
UNEVEN = jbp.skip_mlp((3, 64, 100, 1), bias=True)
HAND_WIRED = Network(
    3,
    (
        Layer("a", 17, ("x",), "sigmoid", True),
        Layer("dead end", 2, ("a",), "softplus", True),
        Layer("out", 5, ("x", "a"), "tanh", True),
    ),
)
# network, loss, batch, block, programs: batches that no block divides, one example, programs left without a block
CASES = {
    "the exercise": (jbp.skip_mlp((1, 1, 1, 1)), HALF, 38, 16, 2),
    "one example": (SMALL, HALF, 1, None, None),
    "uneven widths": (UNEVEN, HUBER, 37, 16, 2),
    "whole tiles": (jbp.mlp((64, 128, 128, 16)), SOFTMAX, 64, 32, 1),
    "classes, g(0) not 0": (jbp.mlp((8, 20, 10), "sigmoid", bias=True), SOFTMAX, 70, 16, 3),
    "dense": (jbp.dense_mlp((5, 4, 2), "gelu_tanh", bias=True), "sigmoid_binary_cross_entropy", 33, 32, 5),
    "hand-wired": (HAND_WIRED, HUBER, 20, None, None),
}
# what a kernel's steps compute is to be seen here, not how fast
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def step_by_step(network, loss, readout=jbp.total, block=None, programs=None):
    return compiled(jbp.fused(network, loss, readout, block, programs, interpret=True))


def everything(fg):
    clipped, lost = jbp.total(jbp.clip(fg, 0.3)), jbp.readouts.count_not_finite(fg)
    return {"total": jbp.total(fg), "clipped": clipped, "squares": jnp.sum(jbp.norms(fg) ** 2), "lost": lost}


def clipped(fg):
    return jbp.total(jbp.clip(fg, 0.3)), jbp.readouts.count_not_finite(fg)


def plain(network, loss):
    return jax.value_and_grad(jbp.plain_loss(network, loss, "sum"))


@pytest.mark.parametrize("case", CASES)
def test_every_sum_against_jax_grad_and_the_whole_batch(case):
    network, loss, batch, block, programs = CASES[case]
    params, x, y = draw(network, loss, batch, "float32")
    x = np.asarray(x) * np.where(np.arange(batch) == 0, 3, 1).astype("float32")[:, None]  # one above the bound at least
    weight = None if batch in (1, 37, 64) else np.resize(np.float32([1, 0, 0.5]), batch)
    run = step_by_step(network, loss, everything, block, programs)
    given = run(params, x, y, weight)

    @compiled
    def whole(params, x, y):
        value, grads = plain(network, loss)(params, x, y, weight)
        _, fg = jbp.per_example(network, loss)(params, x, y)
        dz = fg.dz if weight is None else jax.tree.map(lambda dz: weight[:, None] * dz, fg.dz)
        fg = replace(fg, dz=dz)
        return (value, everything(fg) | {"total": grads}), jnp.sum(jbp.norms(fg) > 0.3)

    expected, above = whole(params, x, y)
    assert above >= 1
    oracle.assert_close(given, expected)
    assert jax.tree.all(jax.tree.map(np.array_equal, given, run(params, x, y, weight)))  # twice the same bits


def test_an_example_that_is_not_finite_is_counted_once():
    params, x, y = draw(SMALL, HUBER, 20, "float32")
    run = step_by_step(SMALL, HUBER, clipped, 16)
    _, (given, lost) = run(params, x.at[19].set(jnp.nan), y)  # the last: what fills up must not repeat it
    assert int(lost) == 1
    _, (expected, _) = run(params, x[:19], y[:19])
    oracle.assert_close(given, expected)


def test_what_fills_a_block_up_adds_nothing_even_where_the_loss_is_infinite():
    network = jbp.mlp((16, 16))
    loss = (lambda yhat, y: -jnp.sum(y * jnp.log(yhat)), lambda yhat, y: -y / yhat)  # at yhat = y = 0: NaN
    params = {"yhat": {"x": jnp.ones((16, 16))}}
    x, y = jnp.ones((5, 16)), jnp.ones((5, 16))
    value, grads = step_by_step(network, loss, jbp.total, 16)(params, x, y)
    oracle.assert_close(value, jnp.float32(-5 * 16 * np.log(16)))
    oracle.assert_close(grads["yhat"]["x"], jnp.full((16, 16), -5 / 16, "float32"))


def test_half_precision_is_what_is_stored_not_what_is_computed_with():
    params, x, y = draw(SMALL, HUBER, 37, "bfloat16")
    given = step_by_step(SMALL, HUBER, jbp.total, 16)(params, x, y)
    wide = jax.tree.map(lambda a: a.astype("float32"), (params, x, y))
    expected = jax.tree.map(lambda a: a.astype("bfloat16"), compiled(plain(SMALL, HUBER))(*wide))
    oracle.assert_close(given, expected, 2**-7)
    # rounded once, at the end: the same number, but for the few that float32's own error takes over a boundary
    same = np.concatenate([np.ravel(g == e) for g, e in zip(*map(jax.tree.leaves, (given, expected)), strict=True)])
    assert same.mean() > 0.95


def test_double_precision():
    network, loss, batch, block, programs = CASES["dense"]
    with jax.enable_x64(True):
        args = draw(network, loss, batch, "float64")
        oracle.assert_close(
            step_by_step(network, loss, jbp.total, block, programs)(*args), compiled(plain(network, loss))(*args)
        )


def lowered(function, args, *platforms):
    return jax.jit(function).trace(*args).lower(lowering_platforms=platforms)


@pytest.mark.parametrize("case", ["the exercise", "uneven widths", "classes, g(0) not 0", "dense"])
def test_it_lowers_for_a_tpu(case):
    network, loss, batch, block, programs = CASES[case]
    args = draw(network, loss, batch, "bfloat16" if case == "dense" else "float32")
    traced = jax.jit(jbp.fused(network, loss, clipped, block, programs)).trace(*args, jnp.ones(batch))
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
    with pytest.raises(ValueError, match=r"none for this device.*stream"):
        traced.lower(lowering_platforms=("rocm",))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_compiled_readout_lowers_without_its_barriers(platform):
    """`clip` says what comes first; kernels cannot lower that, nor where it lies within a call."""
    device = AbstractDevice("NVIDIA H200", None, "gpu") if platform == "cuda" else None  # which JAX 0.12 asks for
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        program = jbp.fused(UNEVEN, HUBER, jax.jit(clipped)).trace(*draw(UNEVEN, HUBER, 40, "float32"))
        assert "fused_sweep" in program.lower(lowering_platforms=(platform,)).as_text()


def test_step_by_step_it_lowers_for_any_device():
    run = jbp.fused(HAND_WIRED, HUBER, interpret=True)
    text = lowered(run, draw(HAND_WIRED, HUBER, 20, "float32"), "cpu", "cuda", "rocm", "tpu").as_text()
    assert "custom_call" not in text


def test_the_activations_that_do_not_lower_are_those_refused():
    for name in jbp.activations.ACTIVATIONS:
        network = Network(16, (Layer("yhat", 16, ("x",), name),))
        traced = jax.jit(jbp.fused(network, HALF)).trace(*draw(network, HALF, 16, "float32"))
        if name in ("elu", "gelu"):
            with pytest.raises(ValueError, match="'yhat': Pallas cannot lower"):
                traced.lower(lowering_platforms=("tpu",))
        else:
            traced.lower(lowering_platforms=("tpu",))


@pytest.mark.parametrize("compile_first", [lambda run: run, jax.jit])
def test_a_cpu_is_refused(compile_first):
    run = compile_first(jbp.fused(HAND_WIRED, HUBER))
    with pytest.raises(ValueError, match=r"none for this device.*stream.*interpret=True"):
        run(*draw(HAND_WIRED, HUBER, 20, "float32"))


def test_a_network_too_wide_for_the_chip_is_refused():
    network = jbp.mlp((1024, 1024, 1024))
    params = jax.eval_shape(lambda: jbp.init(network, jax.random.key(0)))
    args = (params, *(jax.ShapeDtypeStruct((64, 1024), "float32"),) * 2)
    with pytest.raises(ValueError, match=r"too wide.*needs about [\d,]+ bytes.*16,777,216.*stream"):
        lowered(jbp.fused(network, HALF), args, "tpu")


@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (8, 64, 64, 1)])
def test_what_needs_no_kernel_lowers_for_every_device(widths):
    network = jbp.skip_mlp(widths)
    args = draw(network, HUBER, 2**17, "float32")
    for function in (jbp.value_and_grad(network, HUBER), jbp.stream(network, HUBER, clipped)):
        text = lowered(function, args, "cpu", "cuda", "rocm", "tpu").as_text()
        assert "custom_call" not in text


@pytest.mark.parametrize("block", [0, 8, 17, -16, True])
def test_a_block_that_is_not_a_multiple_of_16_is_refused(block):
    with pytest.raises(ValueError, match="block is"):
        jbp.fused(HAND_WIRED, HUBER, block=block)


@pytest.mark.parametrize("programs", [0, -1, True])
def test_a_number_of_programs_below_1_is_refused(programs):
    with pytest.raises(ValueError, match="programs is"):
        jbp.fused(HAND_WIRED, HUBER, programs=programs)
