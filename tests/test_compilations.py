"""How many programs each public function compiles: at first, at other numbers of the same shapes, and at another batch."""

from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbackprop as jbp

COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of JAX's, one for each program that XLA compiles
counts: list[str] = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: counts.append(event))


@contextmanager
def compilations():
    """A list that has as many entries, afterwards, as programs were compiled."""
    began, found = len(counts), []
    yield found
    found += [event for event in counts[began:] if event == COMPILED]


NETWORK, OTHER = jbp.skip_mlp((3, 4, 4, 2), "tanh"), jbp.skip_mlp((3, 4, 4, 2), "relu")
LOSS = "half_squared_error"
OPTIMIZER, PRIVATE = optax.adam(1e-2), jbp.private_gradient(1.0, 1.0)


def clipped(fg):
    return jbp.total(jbp.clip(fg, 1.0))


def loss_of_one(params, x, y):
    return jnp.sum((jnp.tanh(params["w"] @ x) - y) ** 2)


def trained(batch, **more):
    jbp.fit(NETWORK, LOSS, OPTIMIZER, batch, epochs=2, batch_size=4, **more)


class Given(NamedTuple):
    """Parameters of the network and of the loss of one example, a batch, and its factored gradient."""

    params: dict
    w: dict
    x: jax.Array
    y: jax.Array
    fg: jbp.FactoredGradient


def given(seed: int, examples: int) -> Given:
    keys = jax.random.split(jax.random.key(seed), 4)
    x, y = jax.random.normal(keys[0], (examples, 3)), jax.random.normal(keys[1], (examples, 2))
    params = jbp.init(NETWORK, keys[2])
    fg = jbp.per_example(OTHER, LOSS)(params, x, y)[1]
    made = Given(params, {"w": jax.random.normal(keys[3], (2, 3))}, x, y, fg)
    return jax.block_until_ready(made)


CHECKED = partial(jbp.loss_function(NETWORK, LOSS)), partial(jax.grad(jbp.plain_loss(NETWORK, LOSS)))
# what is called, and how many programs it compiles at first: those that are for use under `jax.jit` are called under it
ONE = {
    "value_and_grad": lambda g: jbp.value_and_grad(NETWORK, LOSS)(g.params, g.x, g.y),
    "per_example": lambda g: jbp.per_example(NETWORK, LOSS)(g.params, g.x, g.y),
    "stream": lambda g: jbp.stream(NETWORK, LOSS, clipped)(g.params, g.x, g.y),
    "stream of any loss": lambda g: jbp.stream(loss_of_one, clipped)(g.w, g.x, g.y),
}
UNDER_JIT = {
    "factored": lambda g: jbp.factored(loss_of_one)(g.w, g.x, g.y),
    "clipped_grad": lambda g: jbp.clipped_grad(
        loss_of_one, l2_clip_norm=1.0, batch_argnums=(1, 2), keep_batch_dim=False
    )(g.w, g.x, g.y),
    "predict": lambda g: jbp.predict(NETWORK, g.params, g.x),
    "apply": lambda g: jbp.apply(NETWORK)(g.params, g.x),
    "loss_function": lambda g: jax.grad(jbp.loss_function(NETWORK, LOSS))(g.params, g.x, g.y),
    "plain_loss": lambda g: jax.grad(jbp.plain_loss(NETWORK, LOSS))(g.params, g.x, g.y),
    "noise_scale": lambda g: jbp.noise_scale(g.fg),
    "moments": lambda g: jbp.moments(g.fg),
    "clip and total": lambda g: clipped(g.fg),
    "norms": lambda g: jbp.norms(g.fg),
    "gram": lambda g: jbp.gram(g.fg),
    "inner": lambda g: jbp.inner(g.fg, g.params),
    "materialise": lambda g: jbp.materialise(g.fg),
    "compact": lambda g: jbp.compact(g.fg),
    "project": lambda g: jbp.project(g.fg, jax.random.key(0), 2),
    "kronecker": lambda g: jbp.kronecker(g.fg),
}
# several programs, for an epoch and what is around it say: how many is JAX's matter, that there are no more later is ours
SEVERAL = {
    "fit": lambda g: trained((g.x, g.y), key=jax.random.key(0)),
    "fit, private": lambda g: trained((g.x, g.y), gradient=PRIVATE),
    "fit_many": lambda g: jbp.fit_many(
        NETWORK, LOSS, optax.adam, (g.x, g.y), epochs=2, batch_size=4, keys=jax.random.split(jax.random.key(0), 2),
        learning_rates=jnp.array([1e-2, 1e-3]),
    ),
    "evaluate": lambda g: jbp.evaluate(NETWORK, LOSS, g.params, (g.x, g.y)),
    "check_gradient": lambda g: jbp.check_gradient(*CHECKED, g.params, g.x, g.y),
    "trace": lambda g: str(jbp.trace(NETWORK, LOSS, g.params, g.x[0], g.y[0])),
}  # fmt: skip
MORE = {"check_gradient": 1}  # what is under test may be another gradient each time


@pytest.mark.parametrize("name", ONE)
def test_one_program_for_a_shape(name):
    first, second, longer = given(0, 8), given(1, 8), given(2, 12)
    with compilations() as at_first:
        jax.block_until_ready(ONE[name](first))
    with compilations() as again:
        jax.block_until_ready(ONE[name](second))
    with compilations() as at_another_batch:
        jax.block_until_ready(ONE[name](longer))
    assert (len(at_first), len(again), len(at_another_batch)) == (1, 0, 1)


@pytest.mark.parametrize("name", UNDER_JIT)
def test_one_program_under_jit(name):
    """Nothing is compiled while it is traced, by what looks at numbers say; what comes out goes into jit again as equal."""
    first, second = given(0, 8), given(1, 8)
    program = jax.jit(UNDER_JIT[name])
    with compilations() as at_first:
        jax.block_until_ready(program(first))
    with compilations() as again:
        jax.block_until_ready(program(second))
    assert (len(at_first), len(again)) == (1, 0)


@pytest.mark.parametrize("name", SEVERAL)
def test_no_program_more_at_other_numbers(name):
    first, second = given(0, 8), given(1, 8)
    with compilations() as at_first:
        SEVERAL[name](first)
    with compilations() as again:
        SEVERAL[name](second)
    assert (len(at_first) > 0, len(again)) == (True, MORE.get(name, 0))
