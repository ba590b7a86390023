"""What the gradient check is made of: the flat program and its sides, points, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop.checking import points
from jaxbackprop.checking.decisions import counted, opaque, value_and_sides
from jaxbackprop.checking.differences import Seen, noise_of, slope
from jaxbackprop.checking.rounding import longest_sum, narrowest
from jaxbackprop.programs.flat import CALLS, SCAN, flatten, run, without_custom_rules


def pattern(function, w):
    _, sides, _ = value_and_sides(flatten(function, w), [w])
    return [np.asarray(side).tolist() for side in sides]


KINKED = {
    "where": (lambda w: jnp.sum(jnp.where(w > 1, w, 1)), 1.0),
    "maximum": (lambda w: jnp.sum(jnp.maximum(w, 1)), 1.0),
    "minimum": (lambda w: jnp.sum(jnp.minimum(1, w)), 1.0),
    "abs": (lambda w: jnp.sum(jnp.abs(w - 1)), 1.0),
    "sign": (lambda w: jnp.sum(jnp.sign(w - 1) * w), 1.0),
    "clip, low": (lambda w: jnp.sum(jnp.clip(w, 1, 2)), 1.0),
    "clip, high": (lambda w: jnp.sum(jax.lax.clamp(0.0, w, 1.0)), 1.0),
    "floor": (lambda w: jnp.sum(jnp.floor(w) * w), 1.0),
    "ceil": (lambda w: jnp.sum(jnp.ceil(w) * w), 1.0),
    "round": (lambda w: jnp.sum(jnp.round(w) * w), 1.5),
    "max over an axis": (lambda w: jnp.max(jnp.concatenate([w, jnp.ones(1)])), 1.0),
    "min over an axis": (lambda w: jnp.min(jnp.concatenate([w, jnp.ones(1)])), 1.0),
    "sort": (lambda w: jnp.sort(jnp.concatenate([w, jnp.ones(1)]))[0], 1.0),
    "argmax": (lambda w: w[0] * jnp.argmax(jnp.concatenate([w, jnp.ones(1)])), 1.0),
    "inside jit and checkpoint": (lambda w: jnp.sum(jax.checkpoint(jax.jit(jax.nn.relu))(w - 1)), 1.0),
}


@pytest.mark.parametrize("name", KINKED)
def test_a_side_changes_across_the_kink_and_nowhere_else(name):
    function, kink = KINKED[name]
    below, nearer, above = (pattern(function, jnp.array([kink + step])) for step in (-0.2, -0.1, 0.1))
    assert below == nearer
    assert below != above


def test_what_has_no_kink_decides_nothing():
    one_hot = lambda w: -jax.nn.log_softmax(w) @ jax.nn.one_hot(1, 3)  # noqa: E731
    for smooth in (jnp.sum, one_hot, lambda w: jnp.sum(jnp.where(jnp.arange(3) > 1, w, 0))):
        assert pattern(smooth, jnp.arange(3.0)) == []


def test_a_flat_program_gives_what_the_function_gives():
    def function(w, x):
        total, _ = jax.lax.scan(lambda total, row: (total + jnp.abs(row @ w), None), 0.0, x)
        total = jax.lax.scan(lambda total, row: (total + jnp.tanh(row @ w), None), total, x)[0]
        return jax.nn.gelu(total) + jax.lax.cond(total > 0, jax.nn.relu, jnp.cos, total)

    w, x = jnp.arange(3.0), jnp.linspace(-1, 1, 12).reshape(4, 3)
    program = flatten(function, w, x)
    np.testing.assert_allclose(run(program, [w, x])[0], function(w, x), rtol=1e-6)
    assert opaque(program) == ("cond", "scan")
    smooth = flatten(lambda w, x: jax.lax.scan(lambda total, row: (total + jnp.tanh(row @ w), None), 0.0, x)[0], w, x)
    assert opaque(smooth) == (), "what is in a loop is known"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_a_loop_step_after_step_gives_what_the_loop_gives(reverse, batched):
    def function(w, x):
        def step(carry, member):
            total, count = carry
            row, scale = member
            return (jnp.tanh(total * scale + row @ w), count + 1), (total, scale * jnp.sum(row))

        first, scales = jnp.zeros(2), jnp.arange(1.0, 5.0)
        (last, count), seen = jax.lax.scan(step, (first, 0), (x, scales), reverse=reverse)
        return last, count, seen, jax.lax.scan(lambda c, _: (2 * c, None), last, length=3)[0]

    if batched:
        function = (lambda f: lambda w, x: jax.vmap(lambda x: f(w, x))(jnp.stack([x, 2 * x, x - 1])))(function)
    w, x = jnp.arange(6.0).reshape(3, 2), jnp.linspace(-1, 1, 12).reshape(4, 3)
    program = flatten(function, w, x, inlined=(*CALLS, SCAN))
    assert "scan" not in {step.name for step in program.steps}
    found = jax.tree.unflatten(program.structure, run(program, [w, x]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, function(w, x))


PASSED_ON = {
    "pooling": lambda w: jax.lax.reduce_window(w, -jnp.inf, jax.lax.max, (2,), (2,), "VALID"),
    "cummax": jax.lax.cummax,
    "cummin": jax.lax.cummin,
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_side_tells_which_entry_is_passed_on(name):
    with jax.enable_x64(True):
        sides = [
            pattern(lambda w: jnp.sum(PASSED_ON[name](w) ** 2), jnp.array(w)) for w in ([1.0, 2, 3, 0], [1, 2.5, 3, 0])
        ]
        assert sides[0] == sides[1]
        assert pattern(lambda w: jnp.sum(PASSED_ON[name](w) ** 2), jnp.array([2, 1.0, 0, 3])) != sides[0]


def test_what_can_never_change_sides_is_not_counted():
    def count(function):
        return len(counted(flatten(function, jnp.arange(3.0), jnp.array([1, 0, -2]))))

    assert count(lambda w, y: jnp.sum(jnp.abs(w))) == 1
    assert count(lambda w, y: jnp.sum(jax.nn.relu(w))) == 1
    assert count(lambda w, y: jnp.sum(jnp.clip(w, -1, 1))) == 2
    assert count(lambda w, y: jnp.sum(jax.lax.clamp(0.0, w * w, 1.0))) == 1
    assert count(lambda w, y: jnp.maximum(jnp.sum(w * w), 1e-3)) == 1
    assert count(lambda w, y: jnp.maximum(jnp.sum(w * w), 0)) == 0
    assert count(lambda w, y: jnp.maximum(jnp.sum(w**3), 0)) == 1
    assert count(lambda w, y: jax.nn.logsumexp(w)) == 0, "of |Σ exp| there is one side"
    assert count(lambda w, y: jnp.sum(jnp.sign(y) * jnp.where(y > 0, 1.0, 2.0) * w)) == 0, "labels are no parameters"


def test_custom_rules_are_taken_out_at_any_depth():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, d: (5 * d,))
    wrapped = jax.jit(lambda x: jnp.sum(jax.checkpoint(double)(x)))
    assert float(jax.grad(wrapped)(1.0)) == 5
    assert float(jax.grad(without_custom_rules(wrapped))(1.0)) == 2


def test_the_longest_sum_and_the_narrowest_type():
    assert longest_sum(flatten(lambda w, x: jnp.mean((x @ w) ** 2), jnp.ones((3, 4)), jnp.ones((50, 3)))) == 200
    assert longest_sum(flatten(lambda w: jnp.sum(w[None] * jnp.ones((70, 1))), jnp.ones(3))) == 210
    halved = flatten(lambda x: jax.jit(lambda x: x.astype("float16") * 2)(x), jnp.ones(2))
    looped = flatten(
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: (x.astype("float16") * 2).astype(x.dtype), x), jnp.ones(2)
    )
    assert narrowest(halved) == narrowest(looped) == "float16"


def drawn(value, w, *data):
    with jax.enable_x64(True):
        program = flatten(value, w, *data)
        return points.draw(lambda at: points.look(program, None, at, data), w, np.random.default_rng(0))


def test_points_are_drawn_until_rare_sides_are_seen():
    """Of four units' 16 patterns each is kept once, whatever the given point shows."""
    chosen = points.choose(drawn(lambda w: jnp.sum(jax.nn.relu(w)), jnp.ones(4)))
    assert (chosen.units, chosen.both_sides) == (4, 4)
    assert len({tuple((np.asarray(at) > 0).tolist()) for at in chosen.params}) == 16


def test_a_unit_is_seen_on_a_side_by_any_example():
    with jax.enable_x64(True):
        program = flatten(lambda w, x: jnp.sum(jax.nn.relu(w * x)), jnp.ones(4), jnp.ones((5, 4)))
        x = jnp.array([[1.0, 1, 1, -1]] * 4 + [[1.0, 1, -1, -1]])
        looked = points.look(program, 5, jnp.ones(4), x)
    assert looked.below.tolist() == [False, False, True, True]
    assert looked.above.tolist() == [True, True, True, False]


def test_points_where_the_value_is_not_finite_are_left_out():
    value = lambda w: jnp.sum(jnp.log(w))  # noqa: E731
    found = drawn(value, jnp.ones(3))
    assert all(bool(jnp.isfinite(value(jnp.asarray(at)))) for at in found.params)
    assert 3 < len(found.params) < 128


@pytest.mark.parametrize("away", [1.0, 1e-3, 1e-6])
def test_a_slope_near_a_kink_is_that_of_its_own_side(away):
    def along(t):
        z = away + t
        return Seen(max(z, 0.0) * np.exp(z), int(np.sign(z)))

    exact = np.exp(away) * (1 + away)
    found = slope(along, 1.0, 1e-16, given=exact)
    assert found.kind == ("smooth" if away == 1 else "near")
    assert abs(found.low - exact) <= found.error < 1e-5
    assert found.allows(0.0)
    assert not slope(along, 1.0, 1e-16, given=exact * (1 + 1e-4)).allows(0.0)


def test_a_kink_that_is_not_seen_does_not_refute_a_right_slope():
    along = lambda t: Seen(abs(3e-4 + t), 0)  # noqa: E731
    assert slope(along, 1.0, 1e-16, given=1.0, all_kinks_seen=False).allows(0.0)
    assert not slope(along, 1.0, 1e-16, given=0.99, all_kinks_seen=False).allows(0.0)


@pytest.mark.parametrize("noise", [1e-12, 1e-6])
def test_the_noise_is_measured(noise):
    rng = np.random.default_rng(0)
    found = noise_of(lambda t: Seen(1.0 + t + noise * rng.standard_normal(), 0), 1.0)
    assert noise / 3 < found < 10 * noise
