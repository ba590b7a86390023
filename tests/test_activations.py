import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxbackprop.activations import ACTIVATIONS, Activation, as_activation

RECTIFIERS = ["relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"]
WIDE = np.concatenate([-np.logspace(4, -6, 301), [0.0], np.logspace(-6, 4, 301)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_and_derivative_agree_with_jax_in_float64(name):
    with jax.enable_x64(True):
        z = jnp.asarray(WIDE)
        value, derivative = jax.vmap(jax.value_and_grad(oracle.ACTIVATIONS[name]))(z)
        np.testing.assert_allclose(
            ACTIVATIONS[name].value(z), value, rtol=1e-12, atol=1e-14
        )  # jax.nn's 1 + tanh cancels
        known = (
            np.abs(WIDE) < 8 if name == "gelu_tanh" else np.full(len(WIDE), True)
        )  # jax.nn's own cubes overflow further out
        if name in ("relu", "leaky_relu", "elu"):
            known &= WIDE != 0  # the convention at the kink is ours, and has a test of its own
        # jax.nn's 1 + tanh is off by eps, times z · 2u' < 140 where it is compared
        atol = 140 * 2**-52 if name == "gelu_tanh" else 1e-14
        np.testing.assert_allclose(ACTIVATIONS[name].derivative(z)[known], derivative[known], rtol=1e-11, atol=atol)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_jax_grad_of_the_value_is_right_at_zero_too(name):
    """Two kinks that cancel, as in max(z, 0) + log1p(e^−|z|), are kinks for `jax.grad`."""
    assert float(jax.grad(ACTIVATIONS[name].value)(0.0)) == float(ACTIVATIONS[name].derivative(jnp.float32(0)))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_finite_everywhere_and_of_the_inputs_dtype(name, dtype):
    z = jnp.asarray(WIDE, dtype)
    for function in (ACTIVATIONS[name].value, ACTIVATIONS[name].derivative):
        out = function(z)
        assert out.dtype == z.dtype
        assert bool(jnp.all(jnp.isfinite(out)))
    if dtype == "float32":
        ends = jnp.array([-3e38, 3e38], dtype)
        assert bool(jnp.all(jnp.isfinite(ACTIVATIONS[name].derivative(ends))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_derivative_is_right_over_the_whole_range(name):
    with jax.enable_x64(True):
        exact = np.asarray(ACTIVATIONS[name].derivative(jnp.asarray(np.float64(np.float32(WIDE)))))
    given = np.asarray(ACTIVATIONS[name].derivative(jnp.asarray(WIDE, jnp.float32)))
    np.testing.assert_allclose(given, exact, atol=1e-6)


@pytest.mark.parametrize("z", [4.0, 8.0, -6.0])
def test_tails_keep_their_relative_precision(z):
    # 1 − tanh² in float32 would be off by 4e-4 at 4 and by everything at 10
    exact = {"tanh": 1 / np.cosh(z) ** 2, "sigmoid": 1 / (2 + np.exp(z) + np.exp(-z))}
    for name, slope in exact.items():
        assert abs(float(ACTIVATIONS[name].derivative(jnp.float32(z))) / float(slope) - 1) < 1e-5


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu"])
@pytest.mark.parametrize("z", [0.0, -0.0, 1e-45])
def test_at_the_kink_the_branch_otherwise_decides(name, z):
    assert float(ACTIVATIONS[name].derivative(jnp.float32(z))) == 1.0
    assert float(jax.jit(ACTIVATIONS[name].derivative)(jnp.float32(z))) == 1.0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_goes_through(name):
    assert bool(jnp.isnan(ACTIVATIONS[name].value(jnp.float32(jnp.nan))))


def test_an_activation_of_ones_own():
    pair = (jnp.square, lambda z: 2 * z)
    assert as_activation(pair) == Activation(*pair)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_derivative_that_is_left_out_is_that_of_jax_grad(name):
    g, z = ACTIVATIONS[name], jnp.asarray(WIDE[WIDE != 0], jnp.float32)
    for own in (as_activation(g.value), as_activation(Activation(g.value, gain=2.0))):
        by_jax = jax.vmap(jax.grad(g.value))(z)
        np.testing.assert_array_equal(own.derivative(z), by_jax)
        np.testing.assert_array_equal(jax.vmap(own.derivative)(z), by_jax)


def test_an_activation_made_twice_of_the_same_functions_is_the_same():
    for given in (jnp.square, (jnp.square, jnp.cos), Activation(jnp.square), Activation(jnp.square, name="square")):
        assert as_activation(given) == as_activation(given) == as_activation(as_activation(given))
        assert hash(as_activation(given)) == hash(as_activation(given))
    assert as_activation(jnp.square) == as_activation(Activation(jnp.square)) != as_activation(jnp.cos)


def test_what_an_activation_carries_is_kept():
    g = as_activation(Activation(jnp.square, None, "square", 2.0, "sq"))
    assert g[2:] == ("square", 2.0, "sq")
    assert [name for name, g in ACTIVATIONS.items() if g.gain == 2] == RECTIFIERS
    assert all(name == g.name for name, g in ACTIVATIONS.items())


@pytest.mark.parametrize("given", [(jnp.square,), (jnp.square, None), (1, 2)])
def test_what_is_no_activation_is_refused(given):
    with pytest.raises(TypeError, match=r"expected a name .* or a pair of functions"):
        as_activation(given)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown activation 'rleu': did you mean 'relu'"):
        as_activation("rleu")
