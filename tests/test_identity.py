"""A program's digest: the same wherever it is computed, another for every other program."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop.training.identity import program_of

X = jnp.arange(6.0).reshape(2, 3) + 1
TABLE = np.arange(3.0, dtype="float32")


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(x))


softplus.defjvp(lambda primals, tangents: (softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]))


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g,))


def image(x, stride=1):
    return jax.lax.conv(x.reshape(1, 1, 2, 3), jnp.ones((1, 1, 2, 2)), (1, stride), "VALID")


def looped(x, factor):
    return jax.lax.scan(lambda carry, row: (carry + jnp.sin(row) * factor, None), jnp.zeros(3), x)[0]


def chosen(x, other):
    return jax.lax.cond(jnp.sum(x) > 0, jnp.sin, other, x)


def seen(x):
    jax.debug.callback(lambda _: None, x)
    return x


# of each row every program computes something else
PROGRAMS = {
    "a number": (lambda x: x * 0.1, lambda x: x * 0.2),
    "an array": (lambda x: x * TABLE, lambda x: x * (TABLE + 1), lambda x: x * TABLE[::-1].copy()),
    "an order": (lambda x: x[0] - x[1], lambda x: x[1] - x[0], lambda x: x[0] - x[0]),
    "an axis": (lambda x: x.sum(0, keepdims=True).T, lambda x: x.sum(1), lambda x: x.max(1)),
    "a convolution": (image, partial(image, stride=2)),
    "in a loop": (lambda x: looped(x, 1.0), lambda x: looped(x, 2.0), lambda x: looped(x, TABLE)),
    "in a branch": (lambda x: chosen(x, jnp.cos), lambda x: chosen(x, jnp.tan)),
    "in a call": (jax.jit(lambda x: x * 3), jax.jit(lambda x: x * 4)),
    "a rule": (softplus, cube, jax.nn.relu, jax.nn.gelu),
    "a gradient": (jax.grad(lambda x: jnp.sum(softplus(x))), jax.grad(lambda x: jnp.sum(cube(x)))),
    "a key": (lambda x: x + jax.random.normal(jax.random.key(1)), lambda x: x + jax.random.normal(jax.random.key(2))),
    "a callback": (seen, lambda x: x),
    "an index": (lambda x: x.at[0].set(1.0), lambda x: x.at[0].add(1.0), lambda x: x[jnp.array([0, 1])]),
}


def digests():
    return [program_of(function, X) for functions in PROGRAMS.values() for function in functions]


def test_programs_that_compute_something_else_are_told_apart():
    found = digests()
    assert len(set(found)) == len(found)


def test_another_process_finds_the_same():
    """Where objects lie elsewhere, sets are in another order, and nothing was traced before."""
    said = "import test_identity; print(*test_identity.digests()[::-1])"
    environment = os.environ | {
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[::-1] == digests()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_names_do_not_count_and_types_do(dtype):
    def one(first):
        second = first * 2
        return second + 1

    x = X.astype(dtype)
    assert program_of(one, x) == program_of(lambda other: other * 2 + 1, x)
    assert program_of(one, x) not in (program_of(one, X.astype("float16")), program_of(one, x[0]))
