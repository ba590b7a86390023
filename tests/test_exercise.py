import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop import exercise
from jaxbackprop.exercise import Weights


def g(z):
    return jnp.where(z >= 0, z, 0)


def tapped_loss(w, taps, x, y):
    """The network once more, with a zero added to every node, so that jax.grad gives each adjoint."""
    dot = (lambda a, b: a * b) if jnp.ndim(x) == 0 else (lambda a, b: a @ b)
    z0 = dot(w.w0, x) + taps.z0
    h0 = g(z0) + taps.h0
    z1 = dot(w.w1, h0) + taps.z1
    h1 = g(z1) + taps.h1
    z2 = dot(w.w2, h1) + dot(w.w3, h0) + taps.z2
    return jnp.sum((z2 - y) ** 2) / 2


def every_adjoint_by_jax(w, x, y):
    f = exercise.forward(w, x)
    dw, taps = jax.grad(tapped_loss, argnums=(0, 1))(w, jax.tree.map(jnp.zeros_like, f), x, y)
    return exercise.Backward(taps.z2, taps.h1, taps.z1, taps.h0, taps.z0, *dw)


def assert_every_adjoint_right(w, x, y):
    f = exercise.forward(w, x)
    b = exercise.backward(w, x, f, f.z2 - y)
    expected = every_adjoint_by_jax(w, x, y)
    for name in exercise.Backward._fields:
        given, wanted = getattr(b, name), getattr(expected, name)
        assert given.shape == wanted.shape, name
        scale = max(np.max(np.abs(wanted)), 1e-30)
        assert np.max(np.abs(given - wanted)) <= 1e-14 * scale, name
    gradient = exercise.gradient(w, x, y)
    assert all(np.array_equal(a, b) for a, b in zip(gradient, (b.dw0, b.dw1, b.dw2, b.dw3), strict=True))


@pytest.mark.parametrize("signs", list(itertools.product((1.0, -1.0), repeat=5)))
def test_every_adjoint_of_the_scalar_network_in_every_on_off_pattern(signs):
    magnitudes = (0.8, 1.3, 0.7, 0.45, 1.5)
    with jax.enable_x64(True):
        w0, w1, w2, w3, x = (jnp.float64(s * m) for s, m in zip(signs, magnitudes, strict=True))
        assert_every_adjoint_right(Weights(w0, w1, w2, w3), x, jnp.float64(0.3))


def test_by_hand_with_the_skip_path():
    # z0 = 1, h0 = 1, z1 = 2, h1 = 2, z2 = -2 + 3 = 1; y = 0, so that dz2 = 1
    w = Weights(0.5, 2.0, -1.0, 3.0)
    b = exercise.backward(w, 2.0, exercise.forward(w, 2.0), 1.0)
    assert [float(v) for v in b] == [1.0, -1.0, -1.0, 1.0, 1.0, 2.0, -1.0, 2.0, 1.0]


def test_plain_integers_stay_exact():
    w = Weights(3, 2, -1, 5)
    f = exercise.forward(w, 2)
    assert [int(v) for v in f] == [6, 6, 12, 12, 18]
    assert [int(v) for v in exercise.gradient(w, 2, 17)] == [2 * (2 * -1 + 5), 6 * -1, 12, 6]


@pytest.mark.parametrize("sizes", [(5, 4, 3, 2), (1, 4, 1, 3), (3, 1, 2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_every_adjoint_of_the_matrix_network(sizes, seed):
    d, n0, n1, n2 = sizes
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        w = Weights(*(jnp.asarray(rng.normal(size=s)) for s in ((n0, d), (n1, n0), (n2, n1), (n2, n0))))
        assert_every_adjoint_right(w, jnp.asarray(rng.normal(size=d)), jnp.asarray(rng.normal(size=n2)))


@pytest.mark.parametrize("z", [0.0, -0.0, np.finfo(np.float32).smallest_subnormal])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_kink_belongs_to_the_branch_otherwise(z, compiled):
    dg = jax.jit(exercise.dg) if compiled else exercise.dg
    assert float(dg(jnp.float32(z))) == 1.0


def test_the_slope_below_the_kink_is_zero():
    assert float(exercise.dg(-np.finfo(np.float32).tiny)) == 0.0


def test_a_network_that_sits_on_the_kink_uses_slope_one():
    w = Weights(1.0, 1.0, 1.0, 1.0)
    b = exercise.backward(w, 0.0, exercise.forward(w, 0.0), 1.0)
    assert (float(b.dz1), float(b.dh0), float(b.dz0)) == (1.0, 2.0, 2.0)


def test_jit_and_vmap():
    rng = np.random.default_rng(0)
    w = Weights(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 5), (3, 4), (2, 3), (2, 4))))
    x, y = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    batched = jax.jit(jax.vmap(exercise.gradient, in_axes=(None, 0, 0)))(w, x, y)
    for i in range(6):
        for given, expected in zip(batched, exercise.gradient(w, x[i], y[i]), strict=True):
            np.testing.assert_allclose(given[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("w", "x", "message"),
    [
        (
            Weights(np.ones((4, 5)), np.ones((3, 9)), np.ones((2, 3)), np.ones((2, 4))),
            np.ones(5),
            r"w1 has shape \(3, 9\), expected \(3, 4\)",
        ),
        (
            Weights(np.ones((4, 5)), np.ones((3, 4)), np.ones((2, 3)), np.ones((2, 4))),
            np.ones((6, 5)),
            "vmap over a batch",
        ),
        (
            Weights(np.ones((4, 5)), np.ones((3, 4)), np.ones((2, 3)), 1.0),
            np.ones(5),
            r"w3 has shape \(\), expected \(2, 4\)",
        ),
        (
            Weights(np.ones((4, 5)), np.ones((3, 4)), np.ones((2, 3)), np.ones((2, 4))),
            np.ones(7),
            r"w0 has shape \(4, 5\), expected \(4, 7\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(w, x, message):
    with pytest.raises(ValueError, match=message):
        exercise.forward(w, x)


def test_a_target_that_does_not_fit_is_named():
    w = Weights(np.ones((4, 5)), np.ones((3, 4)), np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(2,\)"):
        exercise.gradient(w, np.ones(5), np.ones(3))
    with pytest.raises(ValueError, match=r"dyhat has shape \(\), expected \(2,\)"):
        exercise.backward(w, np.ones(5), exercise.forward(w, np.ones(5)), 1.0)
