"""Every readout against the same figure computed from the materialised gradients of vmap(jax.grad)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_backprop import draw, wirings

import jaxbackprop as jbp
from jaxbackprop import Layer, Network

NETWORK = jbp.dense_mlp((3, 5, 4, 2), "tanh", bias=True)
SKIP = jbp.skip_mlp((3, 5, 4, 2))  # no biases
LOSS = "half_squared_error"


def factored(network=NETWORK, batch=7, dtype="float64", seed=0, loss=LOSS):
    """The factored gradients, and the oracle's materialised ones as one matrix (examples, parameters)."""
    params, x, y = draw(network, loss, batch, dtype, seed)
    _, (each, _) = oracle.per_example(network, loss, params, x, y)
    return jbp.per_example(network, loss)(params, x, y)[1], each


def matrix(tree):
    """Leaves flattened per example and joined: (examples, parameters)."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def close(given, expected, tolerance=1e-10):
    given, expected = np.asarray(given, np.float64), np.asarray(expected, np.float64)
    assert given.shape == expected.shape
    assert np.max(np.abs(given - expected)) <= tolerance * max(np.max(np.abs(expected)), 1e-300)


def check_every_readout(network, batch, seed, loss=LOSS):
    params, x, y = draw(network, loss, batch, "float64", seed)
    each = jax.tree.map(np.asarray, oracle.per_example(network, loss, params, x, y)[1][0])
    G = matrix(each)
    norms = np.linalg.norm(G, axis=1)
    rng = np.random.default_rng(seed)
    weight, bound = rng.uniform(0.1, 2, size=batch), float(np.median(norms)) or 1.0
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape[1:]), each)
    V = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(direction)])

    @jax.jit
    def every_readout(params, x, y, weight, direction):
        fg = jbp.per_example(network, loss)(params, x, y)[1]
        return {
            "materialise": jbp.materialise(fg),
            "total": jax.tree.map(lambda d: d[None], jbp.total(fg, weight)),
            "norms": jbp.norms(fg),
            "squared_norms": jbp.readouts.squared_norms(fg),
            "clip": jbp.materialise(jbp.clip(fg, bound)),
            "moments": jbp.moments(fg),
            "gram": jbp.gram(fg),
            "inner": jbp.inner(fg, direction),
        }

    given = every_readout(params, x, y, weight, direction)
    oracle.assert_close(given["materialise"], each, 1e-10)
    # a sum cancels: its error is relative to its terms
    assert np.max(np.abs(matrix(given["total"])[0] - weight @ G)) <= 1e-14 * np.max(np.abs(weight) @ np.abs(G))
    close(given["norms"], norms)
    for name, square in given["squared_norms"].items():
        close(square, np.sum(matrix(each[name]) ** 2, axis=1))
    close(matrix(given["clip"]), G * np.minimum(1, bound / np.maximum(norms, 1e-300))[:, None])
    mean, variance = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moment)]) for moment in given["moments"]
    )
    assert np.max(np.abs(mean - G.mean(0))) <= 1e-14 * np.max(np.abs(G))
    assert np.max(np.abs(variance - G.var(0))) <= 1e-14 * np.max(np.abs(G)) ** 2
    assert np.min(variance) >= 0
    close(given["gram"], G @ G.T)
    assert np.max(np.abs(given["inner"] - G @ V)) <= 1e-10 * max(np.max(norms) * np.linalg.norm(V), 1e-300)


@pytest.mark.parametrize("network", [NETWORK, SKIP, jbp.mlp((4, 2)), jbp.skip_mlp((1, 1, 1, 1))])
def test_every_readout(network):
    with jax.enable_x64(True):
        check_every_readout(network, 7, 0)


@settings(max_examples=12)
@given(wirings(), st.sampled_from(list(jbp.losses.LOSSES)), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_every_readout_of_random_wirings(wiring, loss, batch, seed):
    with jax.enable_x64(True):
        check_every_readout(Network(wiring[0], tuple(Layer(*layer) for layer in wiring[1])), batch, seed, loss)


@pytest.mark.parametrize("layers", [3, 30])
def test_clipping_adds_the_layers_norms_once(layers):
    """And not anew in every array that it scales: that made the program of a 12-layer model three times as large."""
    network = jbp.mlp((8,) * (layers + 1))
    params, x, y = draw(network, LOSS, 5, "float32", 0)
    sweep = jbp.per_example(network, LOSS)

    def additions(read):
        return jax.jit(lambda *args: read(sweep(*args)[1])).lower(params, x, y).compile().as_text().count(" add(")

    clipped, both = (lambda fg: jbp.total(jbp.clip(fg, 1.0))), (lambda fg: (jbp.total(fg), jbp.norms(fg)))
    assert additions(clipped) <= additions(both) + 9 * layers  # at most 8 terms are added in place


def test_clipping_is_that_of_optax():
    with jax.enable_x64(True):
        fg, each = factored()
        bound = float(jnp.median(jbp.norms(fg)))
        aggregate = optax.contrib.differentially_private_aggregate(l2_norm_clip=bound, noise_multiplier=0.0, key=0)
        expected, _ = aggregate.update(each, aggregate.init(each))
        given = jax.tree.map(lambda d: d / 7, jbp.total(jbp.clip(fg, bound)))
        oracle.assert_close(given, expected, 1e-10)


@pytest.mark.parametrize("per_layer", [False, True])
def test_without_nan_safe_it_is_the_same_or_nan(per_layer):
    with jax.enable_x64(True):
        fg, _ = factored()
        bound = float(jnp.median(jbp.norms(fg)))
        given = jbp.clip(fg, bound, per_layer, nan_safe=False)
        oracle.assert_close(jbp.total(given), jbp.total(jbp.clip(fg, bound, per_layer)), 1e-12)
        for bad in (jnp.inf, jnp.nan, 1e200):  # the last is finite, its square is not
            ill = replace(fg, dz=fg.dz | {"h0": fg.dz["h0"].at[3, 1].set(bad)})
            summed = jbp.total(jbp.clip(ill, bound, per_layer, nan_safe=False))
            assert all(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(summed)), bad
            assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(jbp.total(jbp.clip(ill, bound))))


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_bound_holds_and_what_is_within_is_untouched(per_layer):
    with jax.enable_x64(True):
        fg, _ = factored()
        bound = float(jnp.median(jbp.norms(fg)))
        clipped = jbp.clip(fg, bound, per_layer)
        assert bool(jnp.all(jbp.norms(clipped) <= bound * (1 + 1e-14)))
        inside = jbp.norms(fg) < bound
        if per_layer:
            for name, square in jbp.readouts.squared_norms(clipped).items():
                wanted = jnp.minimum(jbp.readouts.squared_norms(fg)[name], bound**2 / len(NETWORK.layers))
                close(square, wanted)
        else:
            assert 0 < int(inside.sum()) < 7
            for name, dz in clipped.dz.items():
                assert np.array_equal(dz[inside], fg.dz[name][inside])
        # the direction stays
        if not per_layer:
            cosine = jnp.diag(jbp.gram(fg, clipped)) / (jbp.norms(fg) * jbp.norms(clipped))
            close(cosine, np.ones(7))


def test_an_example_without_gradient_is_not_divided_by_zero():
    params, x, _ = draw(SKIP, LOSS, 4, "float32")
    _, fg = jbp.per_example(SKIP, LOSS)(params, x, jbp.predict(SKIP, params, x))
    assert float(jnp.max(jbp.norms(fg))) == 0.0
    assert float(jnp.max(jbp.norms(jbp.clip(fg, 1.0)))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("per_layer", [False, True])
def test_an_example_that_is_not_finite_is_left_out_and_counted(bad, per_layer):
    params, x, y = draw(NETWORK, LOSS, 6, "float32")
    network = jbp.skip_mlp((3, 5, 4, 2), bias=True)
    params, x, y = draw(network, LOSS, 6, "float32")

    @jax.jit
    def run(x, y):
        fg = jbp.per_example(network, LOSS)(params, x, y)[1]
        return jbp.total(jbp.clip(fg, 0.5, per_layer)), jbp.readouts.count_not_finite(fg)

    given, count = run(x.at[2].set(bad), y)
    kept = jnp.array([0, 1, 3, 4, 5])
    expected, none = run(x[kept], y[kept])
    assert (int(count), int(none)) == (1, 0)
    oracle.assert_close(given, expected)


def test_permuting_and_splitting_the_batch_change_nothing():
    with jax.enable_x64(True):
        params, x, y = draw(NETWORK, LOSS, 8, "float64")
        fg = jbp.per_example(NETWORK, LOSS)(params, x, y)[1]
        moments, clipped = jax.jit(jbp.moments), jax.jit(lambda fg: jbp.total(jbp.clip(fg, 0.3)))
        order = np.random.default_rng(1).permutation(8)
        permuted = jbp.per_example(NETWORK, LOSS)(params, x[order], y[order])[1]
        close(jbp.norms(permuted), jbp.norms(fg)[order])
        close(jbp.gram(permuted), jbp.gram(fg)[order][:, order])
        oracle.assert_close(moments(permuted), moments(fg), 1e-10)
        oracle.assert_close(clipped(permuted), clipped(fg), 1e-10)
        halves = [jbp.per_example(NETWORK, LOSS)(params, x[rows], y[rows])[1] for rows in (slice(3), slice(3, 8))]
        sums = [clipped(half) for half in halves]
        oracle.assert_close(jax.tree.map(jnp.add, *sums), clipped(fg), 1e-10)
        close(jbp.gram(*halves), jbp.gram(fg)[:3, 3:])
        # padding by weight 0
        weight = jnp.array([1.0] * 5 + [0.0] * 3)
        part = jbp.per_example(NETWORK, LOSS)(params, x[:5], y[:5])[1]
        oracle.assert_close(moments(fg, weight), moments(part), 1e-10)
        oracle.assert_close(jbp.total(fg, weight), jbp.total(part), 1e-10)


def test_noise_scale_estimates_are_unbiased():
    """Over all samples of 2 from a population of 6, with replacement, the estimates average to the population's figures."""
    with jax.enable_x64(True):
        params, x, y = draw(NETWORK, LOSS, 6, "float64")
        G = matrix(oracle.per_example(NETWORK, LOSS, params, x, y)[1][0])
        estimates = []
        for i in range(6):
            for j in range(6):
                fg = jbp.per_example(NETWORK, LOSS)(params, x[jnp.array([i, j])], y[jnp.array([i, j])])[1]
                estimates.append(jbp.noise_scale(fg))
        trace = np.mean([estimate.trace for estimate in estimates])
        squared_norm = np.mean([estimate.squared_norm for estimate in estimates])
        assert trace == pytest.approx(G.var(axis=0).sum(), rel=1e-10)
        assert squared_norm == pytest.approx(np.sum(G.mean(axis=0) ** 2), rel=1e-10)
        assert float(estimates[1].noise_scale) == pytest.approx(float(estimates[1].trace / estimates[1].squared_norm))


def test_goes_through_jit_vmap_and_scan():
    params, x, y = draw(NETWORK, LOSS, 6, "float32")
    run = jbp.per_example(NETWORK, LOSS)
    _, fg = jax.jit(run)(params, x, y)
    stacked = jax.tree.map(lambda leaf: leaf.reshape(2, 3, -1), fg)
    assert isinstance(stacked, jbp.FactoredGradient)
    close(jax.vmap(jbp.norms)(stacked).reshape(-1), jbp.norms(fg), 1e-6)
    _, scanned = jax.lax.scan(lambda carry, part: (carry, jbp.norms(part)), 0, stacked)
    close(scanned.reshape(-1), jbp.norms(fg), 1e-6)


def test_half_precision_norms_do_not_overflow():
    network = jbp.mlp((2, 2))
    x = jnp.full((3, 2), 300, "float16")
    _, fg = jbp.per_example(network, LOSS)({"yhat": {"x": jnp.eye(2, dtype="float16")}}, x, 0 * x)
    close(jbp.norms(fg), np.full(3, 300.0 * 300 * 2), 1e-3)


def test_no_gradient_is_formed_on_the_way():
    """B x parameters would be 512 x 4 x 128 KB = 67 MB; the sweep itself takes about 2."""
    network = jbp.mlp((128, 256, 128), bias=True)
    params, x, y = draw(network, LOSS, 512, "float32")

    def readouts(params, x, y):
        fg = jbp.per_example(network, LOSS)(params, x, y)[1]
        return jbp.total(jbp.clip(fg, 1.0)), jbp.norms(fg), jbp.moments(fg), jbp.inner(fg, params), jbp.noise_scale(fg)

    memory = jax.jit(readouts).lower(params, x, y).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 16e6


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan"), float("inf"), np.ones(2)])
def test_a_bound_that_is_not_a_positive_number_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm"):
        jbp.clip(factored(dtype="float32")[0], max_norm)


def test_what_does_not_fit_is_named():
    fg = factored(dtype="float32")[0]
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(7,\)"):
        jbp.total(fg, jnp.ones(3))
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(7,\)"):
        jbp.moments(fg, jnp.ones(3))
    with pytest.raises(ValueError, match="other is of another network"):
        jbp.gram(fg, factored(SKIP, dtype="float32")[0])
    with pytest.raises(ValueError, match=r"direction\['h0'\] has \['x'\]"):
        jbp.inner(fg, jbp.init(jbp.dense_mlp((3, 5, 4, 2)), jax.random.key(0)))
    with pytest.raises(ValueError, match="at least 2"):
        jbp.noise_scale(factored(batch=1, dtype="float32")[0])
