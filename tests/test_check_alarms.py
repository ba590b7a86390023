"""Right gradients that a check could take for wrong ones, and arguments of every kind that people have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp

A = jnp.array([[2.0, 1.0], [1.0, 3.0]])

# What a linear solver is given is no constant of the derivative


SOLVES = {
    "inv": jnp.linalg.inv,
    "solve": lambda A: jnp.linalg.solve(A, jnp.array([1.0, 2.0])),
    "matrix_power": lambda A: jnp.linalg.matrix_power(A, -1),
    "cg": lambda A: jax.scipy.sparse.linalg.cg(lambda x: A @ x, jnp.array([1.0, 2.0]))[0],
    "custom_linear_solve": lambda A: jax.lax.custom_linear_solve(
        lambda x: A @ x, jnp.array([1.0, 2.0]), lambda _, b: jnp.linalg.inv(A) @ b, symmetric=True
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_what_solves_a_linear_system(name):
    value = lambda A: jnp.sum(SOLVES[name](A) ** 2)  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), A)
    assert report.ok, str(report)
    assert report.rows[0].error_differences < 1e-6
    assert not jbp.check_gradient(value, lambda A: jax.grad(value)(A).at[0, 1].mul(1.001), A).ok


@pytest.mark.parametrize("right", [True, False])
def test_the_rule_of_a_solve(right):
    @jax.custom_vjp
    def solve(A, b):
        return jnp.linalg.solve(A, b)

    def backward(kept, dx):
        A, x = kept
        db = jnp.linalg.solve(A.T if right else A, dx)
        return -jnp.outer(db, x), db

    solve.defvjp(lambda A, b: (solve(A, b), (A, solve(A, b))), backward)
    report = jbp.check_vjp(solve, A.at[0, 1].set(2.0), jnp.array([1.0, 2.0]))
    assert report.ok == right, str(report)


def test_a_stop_gradient_beside_a_solve_is_still_held():
    value = lambda A: jnp.sum(jnp.linalg.inv(A) @ jax.lax.stop_gradient(A[0]))  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), A)
    assert report.ok, str(report)
