"""The check says "right" of what it looked at, and no more: decisions that the given parameters are far from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 3)), "float32")
SIGNS = jnp.sign(jnp.asarray(RNG.normal(size=6), "float32"))
SMALL = jnp.asarray(1e-4 * RNG.normal(size=3), "float32")


def huber(w, x, y):
    r = jnp.abs(x @ w - y)
    return jnp.mean(jnp.where(r <= 1, 0.5 * r**2, r - 0.5))


def relu6(w, x):
    return jnp.mean(jax.nn.relu6(x @ w))


def hinge(w, x, y):
    return jnp.mean(jnp.maximum(0, 1 - y * (x @ w)))


def clipped(w):
    return jnp.sum(jnp.clip(w, -1, 1) ** 2)


FAR = {  # a value, its gradient, one that forgets the far side, and a point where that side is far away
    "clip": (clipped, lambda w: jnp.where(jnp.abs(w) < 1, 2 * w, 0), lambda w: 2 * w, (jnp.full(4, 0.1),)),
    "huber": (
        huber,
        lambda w, x, y: x.T @ jnp.clip(x @ w - y, -1, 1) / 6,
        lambda w, x, y: x.T @ (x @ w - y) / 6,
        (SMALL, X, X @ SMALL + 0.01),
    ),
    "huber, from large residuals": (
        huber,
        lambda w, x, y: x.T @ jnp.clip(x @ w - y, -1, 1) / 6,
        lambda w, x, y: x.T @ jnp.sign(x @ w - y) / 6,
        (1e7 * SMALL, X, jnp.zeros(6)),
    ),
    "relu6": (
        relu6,
        lambda w, x: x.T @ ((x @ w > 0) & (x @ w < 6)) / 6,
        lambda w, x: x.T @ (x @ w > 0) / 6,
        (SMALL, X),
    ),
    "hinge": (
        hinge,
        lambda w, x, y: -x.T @ jnp.where(y * (x @ w) < 1, y, 0) / 6,
        lambda w, x, y: -x.T @ y / 6,
        (SMALL, X, SIGNS),
    ),
}


@pytest.mark.parametrize("name", FAR)
def test_a_side_that_is_far_away_is_reached(name):
    value, gradient, wrong, at = FAR[name]
    report = jbp.assert_gradient(value, gradient, *at, strict=True)
    assert (report.outcome, report.both_sides) == ("right", report.units), str(report)
    assert report.units > 0
    report = jbp.check_gradient(value, wrong, *at)
    assert (report.ok, report.outcome) == (False, "wrong"), str(report)


def test_what_stays_unseen_is_a_third_outcome():
    w, x = jnp.array([0.5, -1.0, 2.0]), X.at[:, 2].set(0)
    value = lambda w, x: jnp.sum(jax.nn.relu(jnp.sum(x, axis=0) * w))  # noqa: E731
    gradient = lambda w, x: jnp.sum(x, axis=0) * (jnp.sum(x, axis=0) * w > 0)  # noqa: E731
    report = jbp.assert_gradient(value, gradient, w, x)
    assert (report.ok, report.outcome) == (True, "right where looked at")
    assert report.unseen == "1 of 3 decisions never seen on both sides"
    assert report.line.startswith(
        "right where it was looked at: 1 of 3 decisions never seen on both sides, 1 parameter;"
    )
    assert "never on both sides: 1 max at" in str(report)
    assert f"{__name__.rpartition('.')[2]}.py:" in str(report)
    assert (report.to_dict()["outcome"], report.to_dict()["unseen"]) == (report.outcome, report.unseen)
    with pytest.raises(AssertionError, match="right where it was looked at"):
        jbp.assert_gradient(value, gradient, w, x, strict=True)


def test_points_that_the_gradient_refuses_have_shown_nothing():
    """What was seen there was not checked."""

    def positive_alone(w):
        if bool(jnp.any(w < 0)):
            raise ValueError("positive alone")
        return jnp.sign(w)

    report = jbp.check_gradient(lambda w: jnp.sum(jnp.abs(w)), positive_alone, jnp.array([1.0, 2.0]))
    assert (report.outcome, report.both_sides, report.units) == ("right where looked at", 0, 2), str(report)


def test_an_overflow_far_away_is_no_alarm():
    """To see both sides of the clip parameters are drawn where exp overflows: nobody comes there, and it is said."""
    value = lambda w: jnp.sum(jax.nn.softplus(w)) + jnp.sum(jnp.clip(w, -1e4, 1e4))  # noqa: E731
    gradient = lambda w: jnp.exp(w) / (1 + jnp.exp(w)) + (jnp.abs(w) < 1e4)  # noqa: E731
    report = jbp.check_gradient(value, gradient, jnp.array([1.0, 0.5]))
    assert report.ok, str(report)
    assert report.outcome == "right where looked at"
    assert "at parameters of another scale the gradient is not finite" in str(report)


def test_a_unit_in_a_loop_is_a_decision():
    def value(w, x):
        return jnp.sum(jax.lax.scan(lambda h, row: (jax.nn.relu(row * w["x"] + h * w["h"]), None), jnp.zeros(3), x)[0])

    def gradient(w, x, mask=lambda z: z > 0):
        h, before = [jnp.zeros(3)], []
        for row in x:
            before.append(row * w["x"] + h[-1] * w["h"])
            h.append(jax.nn.relu(before[-1]))
        d, found = jnp.ones(3), {"x": 0, "h": 0}
        for row, source, z in zip(x[::-1], h[-2::-1], before[::-1], strict=True):
            d = jnp.where(mask(z), d, 0)
            found = {"x": found["x"] + d * row, "h": found["h"] + d * source}
            d = d * w["h"]
        return found

    w = {"x": jnp.array([0.5, 1.0, -0.7]), "h": jnp.array([0.3, -0.4, 0.8])}
    x = X[:4]
    report = jbp.check_gradient(value, gradient, w, x)
    assert (report.outcome, report.units) == ("right", 12), str(report)
    report = jbp.check_gradient(value, lambda w, x: gradient(w, x, mask=lambda z: z == z), w, x)
    assert not report.ok


def test_a_rule_that_is_not_there_is_not_right():
    with pytest.raises(ValueError, match="f has no derivative rule of its own"):
        jbp.check_vjp(lambda x: jnp.sum(x**2), jnp.ones(3))
