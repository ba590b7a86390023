import jax
import jax.numpy as jnp
import pytest
from test_backprop import draw

import jaxbackprop as jbp

NETWORK = jbp.skip_mlp((3, 5, 4, 2), bias=True)
VALUE = jbp.plain_loss(NETWORK, "half_squared_error")
DATA = draw(NETWORK, "half_squared_error", 6, "float32")


def right(params, x, y):
    return jbp.value_and_grad(NETWORK, "half_squared_error")(params, x, y)[1]


def test_the_hand_derived_gradient_is_right():
    report = jbp.check_gradient(VALUE, right, *DATA)
    assert report.ok, str(report)
    assert len(report.rows) == 7
    assert report.line.startswith("right, 7 parameters; largest relative difference ")
    assert "(jax.grad, float32)" in report.line
    assert "(finite differences, float64)" in report.line
    report.raise_if_wrong()


@pytest.mark.parametrize("layer", ["h0", "h1", "yhat"])
@pytest.mark.parametrize("mistake", [lambda g: 2 * g, lambda g: -g, lambda g: g.at[0].mul(1.05), lambda g: g * jnp.nan])
def test_a_wrong_parameter_is_found_and_named(layer, mistake):
    def wrong(params, x, y):
        grads = right(params, x, y)
        return grads | {layer: grads[layer] | {"bias": mistake(grads[layer]["bias"])}}

    report = jbp.check_gradient(VALUE, wrong, *DATA)
    assert [row.parameter for row in report.rows if not row.ok] == [f"['{layer}']['bias']"]
    assert "WRONG for 1 of 7" in str(report)
    with pytest.raises(AssertionError, match=r"differs from jax\.grad"):
        report.raise_if_wrong()


def test_differences_do_not_trust_jax_grad():
    """A value whose own jax.grad is wrong: only the differences can see it."""

    @jax.custom_vjp
    def square(w):
        return jnp.sum(w**2)

    square.defvjp(lambda w: (square(w), w), lambda w, d: (3 * w * d,))
    report = jbp.check_gradient(square, lambda w: 3 * w, jnp.array([1.0, 2.0]))
    assert [row.problem for row in report.rows] == ["differs from finite differences"]


def test_wrong_structure_and_shape_are_said():
    report = jbp.check_gradient(VALUE, lambda p, x, y: p["h0"], *DATA)
    assert not report.ok
    assert "the gradient is PyTreeDef" in report.rows[0].problem
    report = jbp.check_gradient(lambda w: jnp.sum(w**2), lambda w: 2 * w[:1], jnp.ones(3))
    assert "the gradient has shape (1,), the parameter (3,)" in str(report)


def test_what_cannot_be_checked_is_named():
    with pytest.raises(ValueError, match=r"value returns shape \(3,\), expected a scalar"):
        jbp.check_gradient(lambda w: w, lambda w: w, jnp.ones(3))
    with pytest.raises(ValueError, match="nothing to check"):
        jbp.check_gradient(lambda w: 0.0, lambda w: w, {})


def test_a_gradient_of_zeros_is_right_where_the_value_is_constant():
    assert jbp.check_gradient(lambda w: 0 * jnp.sum(w), lambda w: 0 * w, jnp.ones(3)).ok
    assert not jbp.check_gradient(lambda w: 0 * jnp.sum(w), lambda w: 0 * w + 1e-3, jnp.ones(3)).ok
