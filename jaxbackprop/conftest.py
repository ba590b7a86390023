"""What the examples in docstrings may take as given: a small network, parameters, a batch, and its factored gradient."""

import jax
import jax.numpy as jnp
import pytest

import jaxbackprop as jbp


@pytest.fixture(autouse=True)
def _given(doctest_namespace):
    net = jbp.mlp((2, 3, 1), bias=True)
    params = jbp.init(net, jax.random.key(0))
    x, y = jax.random.normal(jax.random.key(1), (5, 2)), jnp.ones((5, 1))
    _, fg = jbp.per_example(net, "half_squared_error")(params, x, y)
    doctest_namespace.update(jax=jax, jnp=jnp, jbp=jbp, net=net, params=params, x=x, y=y, fg=fg)
