import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close
from scipy.stats import binom, chi2, norm
from test_backprop import draw

import jaxbackprop as jbp
from jaxbackprop.losses import as_loss
from jaxbackprop.model import Model
from jaxbackprop.training import accounting, privacy
from jaxbackprop.training.accounting import Plan
from jaxbackprop.training.steps import Problem

NETWORK = jbp.skip_mlp((3, 8, 6, 2), bias=True)


def step_gradient(method, batch_size, weight, dtype="float64"):
    """A compiled key → (value, gradient) on fixed data, and that data."""
    params, x, y = draw(NETWORK, "half_squared_error", len(weight), dtype)
    problem = Problem(Model(NETWORK, as_loss("half_squared_error")), optax.sgd(1.0), batch_size, method)
    run = method.value_and_grad(problem)
    return jax.jit(lambda key: run(params, x, y, jnp.asarray(weight, dtype), key)), (params, x, y)


def test_without_noise_it_is_the_clipped_sum_over_the_expected_size():
    with jax.enable_x64(True):
        weight = [1.0, 1, 0, 1, 0, 1, 1]
        run, (params, x, y) = step_gradient(jbp.private_gradient(0.4, 0.0), 10, weight)
        value, given = run(jax.random.key(0))
        kept = np.asarray(weight) > 0
        each = jax.vmap(
            jax.grad(lambda p, x, y: jbp.plain_loss(NETWORK, "half_squared_error")(p, x[None], y[None])), (None, 0, 0)
        )
        aggregate = optax.contrib.differentially_private_aggregate(0.4, 0.0, key=0)
        grads = each(params, x[kept], y[kept])
        expected, _ = aggregate.update(grads, aggregate.init(grads))
        assert_close(given, jax.tree.map(lambda d: d * 5 / 10, expected), 1e-10)
        assert_close(value, jbp.plain_loss(NETWORK, "half_squared_error")(params, x[kept], y[kept]))


def test_noise_has_the_stated_deviation_and_is_never_reused():
    quiet, loud = jbp.private_gradient(0.5, 0.0), jbp.private_gradient(0.5, 3.0)
    (quiet_run, _), (loud_run, _) = (step_gradient(method, 4, [1.0] * 6, "float32") for method in (quiet, loud))
    _, base = quiet_run(jax.random.key(0))
    draws = []
    for key in jax.random.split(jax.random.key(7), 40):
        _, given = loud_run(key)
        noise = jax.tree.map(lambda a, b: np.asarray(a - b) * 4 / (3.0 * 0.5), given, base)
        draws.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noise)]))
    z = np.concatenate(draws)
    # each of these holds for standard normal numbers but for one run in a million
    low, high = chi2.ppf([5e-7, 1 - 5e-7], len(z))
    assert low < np.sum(z**2) < high
    assert abs(z.mean()) < norm.ppf(1 - 5e-7) / math.sqrt(len(z))
    # no two leaves, no two steps share noise
    rounded = np.round(z, 4)
    correlation = np.corrcoef(draws)
    assert np.max(np.abs(correlation - np.eye(40))) < 6 / math.sqrt(len(draws[0]))
    assert len(np.unique(rounded)) > 0.8 * len(rounded)


def test_poisson_sampling_chooses_each_example_independently():
    draw_epoch = jax.jit(lambda key: privacy.poisson_batches(key, 200, 20))
    rows, weight = draw_epoch(jax.random.key(0))
    assert rows.shape == weight.shape == (10, accounting.capacity(200, 20))
    counts, sizes = np.zeros(200), []
    for key in jax.random.split(jax.random.key(1), 200):
        rows, weight = draw_epoch(key)
        for r, w in zip(np.asarray(rows), np.asarray(weight), strict=True):
            chosen = r[w > 0]
            assert len(np.unique(chosen)) == len(chosen)
            assert np.all(w[len(chosen) :] == 0)
            counts[chosen] += 1
            sizes.append(len(chosen))
    # 2,000 draws at q = 0.1: every example's count, and the sizes' spread, as the binomial has them
    low, high = binom.ppf([1e-9, 1 - 1e-9], 2000, 0.1)
    assert low < counts.min()
    assert counts.max() < high
    assert np.var(sizes) == pytest.approx(200 * 0.1 * 0.9, rel=0.2)


def test_the_whole_data_set_as_batch_is_always_drawn_whole():
    rows, weight = privacy.poisson_batches(jax.random.key(0), 30, 30)
    assert weight.shape == (1, 30)
    assert sorted(rows[0].tolist()) == list(range(30))
    assert float(weight.sum()) == 30
    assert accounting.sampling_probability(30, 30) == 1.0


@pytest.mark.parametrize(("examples", "batch"), [(1000, 100), (60000, 256), (7, 3), (10, 1)])
def test_a_draw_exceeds_the_capacity_practically_never(examples, batch):
    room, q = accounting.capacity(examples, batch), accounting.sampling_probability(examples, batch)
    assert binom.sf(room, examples, q) <= 1e-15
    assert room == examples or binom.sf(room - 1, examples, q) > 1e-15
    assert q == pytest.approx(batch / examples, abs=2**-33)


def test_spending_one_step_on_all_examples_is_the_gaussian_mechanism():
    """Balle and Wang 2018: delta = Phi(1/2σ - εσ) - e^ε Phi(-1/2σ - εσ) for sensitivity 1."""
    sigma, delta = 1.7, 1e-5
    epsilon = accounting.spent(Plan(100, 100, 1), sigma, delta).epsilon
    exact = norm.cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
    assert exact <= delta  # never reported lower than it is
    assert exact == pytest.approx(delta, rel=0.02)


def test_spending_grows_with_steps_and_falls_with_noise():
    def epsilon(epochs, noise):
        return accounting.spent(Plan(1000, 100, epochs), noise, 1e-5).epsilon

    assert epsilon(1, 1.0) < epsilon(5, 1.0) < epsilon(10, 1.0)
    assert epsilon(5, 2.0) < epsilon(5, 1.0)


def test_calibration_spends_what_it_was_given():
    plan = Plan(1438, 256, 20)
    noise = accounting.calibrate(plan, 2.0, 1e-5)
    assert 1.99 < accounting.spent(plan, noise, 1e-5).epsilon <= 2.0
    assert accounting.spent(plan, noise - 0.01, 1e-5).epsilon > 2.0


def test_fit_takes_it_and_repeats_it():
    x = jax.random.normal(jax.random.key(3), (60, 3))
    y = jnp.stack([x[:, 0] * x[:, 1], x[:, 2]], axis=1)

    def run(method, key):
        return jbp.fit(NETWORK, "huber", optax.adam(0.01), (x, y), epochs=3, batch_size=20, key=key, gradient=method)

    method = jbp.private_gradient(1.0, 0.5)
    first, second = jax.random.split(jax.random.key(0))
    state, history = run(method, first)
    again, _ = run(method, first)
    other, _ = run(method, second)
    assert int(state.step) == 9
    assert all(math.isfinite(row["loss"]) for row in history)
    assert np.array_equal(state.params["h0"]["x"], again.params["h0"]["x"])
    assert not np.array_equal(state.params["h0"]["x"], other.params["h0"]["x"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jbp.private_gradient(0.0, 1.0), "max_norm is 0.0: expected a positive number"),
        (lambda: jbp.private_gradient(1.0, -1.0), "noise_multiplier is -1.0"),
        (lambda: accounting.calibrate(Plan(100, 10, 1), 0.0, 1e-5), "epsilon is 0.0"),
        (lambda: accounting.calibrate(Plan(100, 10, 1), 1.0, 0.0), "delta is 0.0"),
        (lambda: accounting.calibrate(Plan(100, 10, 1), 1.0, 1.5), "delta is 1.5"),
        (lambda: accounting.calibrate(Plan(100, 10, 1), 60.0, 1e-5), "leaves nothing of delta"),
        (lambda: accounting.spent(Plan(100, 10, 1), 0.0, 1e-5), "noise_multiplier is 0.0"),
        (lambda: Plan(100, 101, 1), "batch_size is 101: expected at most the 100 examples"),
        (lambda: Plan(100, 10, 0), "epochs is 0"),
    ],
)
def test_numbers_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
