import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxbackprop.losses import LOSSES, Loss, as_loss


def targets(name, k, rng):
    if name == "softmax_cross_entropy":
        p = rng.uniform(size=k)
        return [jnp.int32(rng.integers(k)), jnp.asarray(p / p.sum())]
    if name == "sigmoid_binary_cross_entropy":
        return [jnp.asarray(rng.uniform(size=k)), jnp.asarray(rng.integers(2, size=k))]
    return [jnp.asarray(rng.normal(size=k) * 2)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_value_and_derivative_agree_with_optax_and_jax_grad(name, k, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        yhat = jnp.asarray(rng.normal(size=k) * 3)
        for y in targets(name, k, rng):
            value, derivative = jax.value_and_grad(oracle.LOSSES[name])(yhat, y)
            np.testing.assert_allclose(LOSSES[name].value(yhat, y), value, rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(LOSSES[name].derivative(yhat, y), derivative, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", [1, 3])
def test_a_softmax_target_that_does_not_sum_to_one_has_its_own_derivative(k):
    with jax.enable_x64(True):
        yhat, y = jnp.arange(k) * 0.7, jnp.full(k, 0.9)
        derivative = jax.grad(LOSSES["softmax_cross_entropy"].value)(yhat, y)
        np.testing.assert_allclose(LOSSES["softmax_cross_entropy"].derivative(yhat, y), derivative, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_stable_for_logits_of_ten_thousand(name, size):
    yhat = jnp.array([size, 0.0, -size], jnp.float32)
    for y in (
        (jnp.int32(1), jnp.int32(0)) if name == "softmax_cross_entropy" else (jnp.array([1.0, 0.0, 1.0], jnp.float32),)
    ):
        value, derivative = LOSSES[name].value(yhat, y), LOSSES[name].derivative(yhat, y)
        assert bool(jnp.isfinite(value)), value
        assert bool(jnp.all(jnp.isfinite(derivative)))


def test_stable_values_are_right():
    yhat = jnp.array([1e4, 0.0, -1e4], jnp.float32)
    assert float(LOSSES["softmax_cross_entropy"].value(yhat, jnp.int32(0))) == 0.0
    assert float(LOSSES["softmax_cross_entropy"].value(yhat, jnp.int32(2))) == 2e4
    assert float(LOSSES["sigmoid_binary_cross_entropy"].value(yhat[:1], jnp.array([0.0]))) == 1e4
    assert float(LOSSES["sigmoid_binary_cross_entropy"].value(yhat[:1], jnp.array([1.0]))) == 0.0
    assert float(LOSSES["huber"].value(jnp.array([1e30]), jnp.array([0.0]))) == pytest.approx(1e30, rel=1e-6)


def test_half_squared_error_has_the_half_and_sums_over_outputs():
    assert float(LOSSES["half_squared_error"].value(jnp.array([3.0, 1.0]), jnp.array([0.0, 0.0]))) == 5.0


@pytest.mark.parametrize("y", [-1, 3, 100])
def test_a_class_that_does_not_exist_gives_nan(y):
    yhat = jnp.ones(3)
    assert bool(jnp.isnan(LOSSES["softmax_cross_entropy"].value(yhat, jnp.int32(y))))
    assert bool(jnp.all(jnp.isnan(LOSSES["softmax_cross_entropy"].derivative(yhat, jnp.int32(y)))))


def test_targets_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"a target has shape \(\), the output has \(3,\)"):
        LOSSES["half_squared_error"].value(jnp.ones(3), jnp.float32(1))
    with pytest.raises(ValueError, match="needs an integer class"):
        LOSSES["softmax_cross_entropy"].value(jnp.ones(3), jnp.float32(1))
    with pytest.raises(ValueError, match="did you mean 'huber'"):
        as_loss("hubert")
    with pytest.raises(TypeError, match="expected a name"):
        as_loss((1, 2))


def quartic(yhat, y):
    return jnp.sum((yhat - y) ** 4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("k", [1, 4])
def test_a_derivative_that_is_left_out_is_that_of_jax_grad(name, k):
    rng = np.random.default_rng(k)
    with jax.enable_x64(True):
        yhat = jnp.asarray(rng.normal(size=k) * 3)
        for y in targets(name, k, rng):
            for own in (as_loss(LOSSES[name].value), as_loss(Loss(LOSSES[name].value, name="mine"))):
                np.testing.assert_array_equal(own.derivative(yhat, y), jax.grad(own.value)(yhat, y))


def test_a_loss_made_twice_of_the_same_functions_is_the_same():
    for given in (quartic, (quartic, jnp.subtract), Loss(quartic), Loss(quartic, name="quartic"), "huber"):
        assert as_loss(given) == as_loss(given) == as_loss(as_loss(given))
        assert hash(as_loss(given)) == hash(as_loss(given))
    assert as_loss(quartic) == as_loss(Loss(quartic)) != as_loss((quartic, jnp.subtract))


def test_a_loss_known_by_its_name_and_its_entry_are_one():
    assert all(as_loss(name) == LOSSES[name] == as_loss(LOSSES[name]) and LOSSES[name].name == name for name in LOSSES)
    figures = {name: loss.figure.name for name, loss in LOSSES.items()}
    assert figures == dict.fromkeys(LOSSES, "accuracy") | {"half_squared_error": "rmse", "huber": "rmse"}


@pytest.mark.parametrize("given", [(quartic,), (quartic, None), (1, 2)])
def test_what_is_no_loss_is_refused(given):
    with pytest.raises(TypeError, match=r"expected a name .* or a pair of functions"):
        as_loss(given)
