"""The gradient check against gradients whose verdict is known: right ones, and the mistakes that people make."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_backprop import NETWORKS, draw

import jaxbackprop as jbp
from jaxbackprop import exercise

# A network in plain JAX, nothing of ours in it: a skip connection, a relu and a tanh, hidden layers of one width.


def loss(p, x, y):
    h0 = jax.nn.relu(x @ p["w0"] + p["b0"])
    h1 = jnp.tanh(h0 @ p["w1"])
    yhat = h1 @ p["w2"] + h0 @ p["w3"]
    return 0.5 * jnp.mean(jnp.sum((yhat - y) ** 2, axis=1))


def sweep(p, x, y, *, mask=lambda z0: z0 > 0, slope=lambda z1: 1 - jnp.tanh(z1) ** 2, skip=1, source="h0", back="w1"):
    """The gradient of `loss` by hand; each argument is the spot of one mistake."""
    z0 = x @ p["w0"] + p["b0"]
    h0 = jax.nn.relu(z0)
    z1 = h0 @ p["w1"]
    h1 = jnp.tanh(z1)
    dyhat = (h1 @ p["w2"] + h0 @ p["w3"] - y) / len(x)
    dz1 = dyhat @ p["w2"].T * slope(z1)
    weights = {"w1": p["w1"], "w1.T": p["w1"].T, "w4": p["w1"] + 0.1}[back]
    dz0 = (dz1 @ weights.T + skip * dyhat @ p["w3"].T) * mask(z0)
    w1_source = {"h0": h0, "z0": z0, "h1": h1}[source]
    return {"w0": x.T @ dz0, "b0": dz0.sum(0), "w1": w1_source.T @ dz1, "w2": h1.T @ dyhat, "w3": h0.T @ dyhat}


def at(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w0": (3, 5), "b0": (5,), "w1": (5, 5), "w2": (5, 2), "w3": (5, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape) / 2, dtype) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(7, 3)), dtype), jnp.asarray(rng.normal(size=(7, 2)), dtype)


def edited(**edits):
    def gradient(p, x, y):
        g = sweep(p, x, y)
        return g | {name: edit(g) for name, edit in edits.items()}

    return gradient


def names(report):
    return [row.parameter[2:-2] for row in report.rows if not row.ok]


def kinds(report):
    return {row.diagnosis.kind for row in report.rows if not row.ok}


# Right gradients


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_our_own_gradient_is_right_and_the_report_says_how_well(name, dtype):
    network = NETWORKS[name]
    point = draw(network, "half_squared_error", 6, dtype)
    hand = jbp.value_and_grad(network, "half_squared_error")
    report = jbp.check_gradient(jbp.plain_loss(network, "half_squared_error"), lambda *args: hand(*args)[1], *point)
    assert report.ok, str(report)
    assert report.units == report.both_sides
    assert report.line.startswith(f"right, {len(report.rows)} parameter")
    assert f"(jax.grad, {dtype})" in report.line
    assert "(finite differences, float64)" in report.line
    assert max(row.error_float64 for row in report.rows) < 1e-13
    assert max(row.error_differences for row in report.rows) < 1e-6
    report.raise_if_wrong()


def test_float64_is_checked_in_float64():
    with jax.enable_x64(True):
        report = jbp.check_gradient(loss, sweep, *at("float64"))
    assert report.ok, str(report)
    assert max(row.error for row in report.rows) < 1e-14


def test_a_gradient_that_jax_cannot_trace_or_widen():
    def by_numpy(p, x, y):
        return {name: np.asarray(g) for name, g in sweep(p, x, y).items()}

    def float32_alone(p, x, y):
        return jax.tree.map(lambda g, leaf: jax.lax.add(g, jnp.zeros(leaf.shape, "float32")), sweep(p, x, y), p)

    def float32_inside(p, x, y):
        p, x, y = jax.tree.map(lambda leaf: leaf.astype("float32"), (p, x, y))
        return sweep(p, x, y)

    assert jbp.check_gradient(loss, by_numpy, *at()).ok
    report = jbp.check_gradient(loss, float32_alone, *at())
    assert report.ok, str(report)
    assert "does not run in float64 (TypeError" in report.notes[0]
    report = jbp.check_gradient(loss, float32_inside, *at())
    assert report.ok, str(report)
    assert "given float64, the gradient returns float32" in str(report)

    def float32_in_the_middle(p, x, y):
        return jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), float32_inside(p, x, y), p)

    report = jbp.check_gradient(loss, float32_in_the_middle, *at())
    assert report.ok, str(report)
    assert "computes in float32 inside" in str(report)
    for inexact in (float32_alone, float32_inside, float32_in_the_middle):
        wrong = jbp.check_gradient(loss, lambda *args, f=inexact: f(*args) | {"w1": 1.001 * f(*args)["w1"]}, *at())
        assert names(wrong) == ["w1"]


def test_scalars_and_named_tuples():
    w = exercise.Weights(0.5, 2.0, -1.0, 3.0)
    report = jbp.check_gradient(
        lambda w, x, y: 0.5 * (exercise.forward(w, x).z2 - y) ** 2, exercise.gradient, w, 2.0, 0.3
    )
    assert report.ok, str(report)
    assert [row.parameter for row in report.rows] == [".w0", ".w1", ".w2", ".w3"]


def test_a_gradient_of_zeros_is_right_where_the_value_is_constant():
    assert jbp.check_gradient(lambda w: 0 * jnp.sum(w), lambda w: 0 * w, jnp.ones(3)).ok
    assert not jbp.check_gradient(lambda w: 0 * jnp.sum(w), lambda w: 0 * w + 1e-3, jnp.ones(3)).ok


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_that_cancels_is_allowed_the_rounding_that_it_cannot_avoid(dtype):
    """Σ (w·x_b) with x that add up to almost nothing: what is left is rounding, of any relative size."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    x = np.concatenate([x, -x]) + 1e-9

    def value(w, x):
        return jnp.sum(jnp.tanh(1e-9 * (x @ w)) * 1e9)

    with jax.enable_x64(dtype == "float64"):
        w, x = jnp.asarray(rng.normal(size=3), dtype), jnp.asarray(x, dtype)
        report = jbp.check_gradient(value, lambda w, x: jnp.sum(x[::-1], axis=0), w, x)
        assert report.ok, str(report)
        assert not jbp.check_gradient(value, lambda w, x: jnp.sum(x[1:], axis=0), w, x).ok


# Wrong ones


@pytest.mark.parametrize("layer", ["h0", "h1", "yhat"])
@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (lambda g: 2 * g, "factor"),
        (lambda g: -g, "sign"),
        (lambda g: g.at[0].mul(1.05), "entry"),
        (lambda g: g.at[0].set(jnp.nan), "not finite"),
        (lambda g: 0 * g, "zero"),
    ],
)
def test_a_wrong_parameter_is_found_named_and_diagnosed(layer, mistake, kind):
    network = jbp.skip_mlp((3, 5, 4, 2), bias=True)
    value = jbp.plain_loss(network, "half_squared_error")

    def wrong(params, x, y):
        grads = jbp.value_and_grad(network, "half_squared_error")(params, x, y)[1]
        return grads | {layer: grads[layer] | {"bias": mistake(grads[layer]["bias"])}}

    report = jbp.check_gradient(value, wrong, *draw(network, "half_squared_error", 6, "float32"))
    assert [row.parameter for row in report.rows if not row.ok] == [f"[{layer!r}]['bias']"]
    assert kinds(report) == {kind}
    with pytest.raises(AssertionError, match="WRONG for 1 of 7 parameters"):
        report.raise_if_wrong()


MISTAKES = {
    "the half": (lambda *a: jax.tree.map(lambda g: 2 * g, sweep(*a)), {"w0", "b0", "w1", "w2", "w3"}, "factor", "½"),
    "the mean": (
        lambda *a: jax.tree.map(lambda g: 7 * g, sweep(*a)),
        {"w0", "b0", "w1", "w2", "w3"},
        "factor",
        "not its mean",
    ),
    "transposed": (edited(w1=lambda g: g["w1"].T), {"w1"}, "transpose", "transposed"),
    "a row's sign": (edited(w1=lambda g: g["w1"].at[3].mul(-1)), {"w1"}, "row", "only row 3 is wrong: its sign"),
    "a column": (edited(w1=lambda g: g["w1"].at[:, 2].mul(0.9)), {"w1"}, "column", "only column 2 is wrong: 0.9 times"),
    "an entry": (
        edited(w0=lambda g: g["w0"].at[1, 4].mul(1.05)),
        {"w0"},
        "entry",
        "only the entry [1, 4] is wrong: 1.05",
    ),
    "swapped": (edited(w2=lambda g: g["w3"], w3=lambda g: g["w2"]), {"w2", "w3"}, "swapped", "gradient of ['w3']"),
    "no mask": (lambda *a: sweep(*a, mask=lambda z: 1), {"w0", "b0"}, "derivative missing", "['w1']"),
    "g for g', relu": (lambda *a: sweep(*a, mask=jax.nn.relu), {"w0", "b0"}, "value for derivative", "the value"),
    "g for g', tanh": (lambda *a: sweep(*a, slope=jnp.tanh), {"w0", "b0", "w1"}, "value for derivative", "['w2']"),
    "no slope": (lambda *a: sweep(*a, slope=lambda z: 1), {"w0", "b0", "w1"}, "derivative missing", "['w2']"),
    "no skip": (lambda *a: sweep(*a, skip=0), {"w0", "b0"}, "path missing", "['w3']"),
    "z for h": (lambda *a: sweep(*a, source="z0"), {"w1"}, "source", "z, before the activation"),
    "its own h": (lambda *a: sweep(*a, source="h1"), {"w1"}, "source", "the source of ['w2']"),
    "W for Wᵀ": (lambda *a: sweep(*a, back="w1.T"), {"w0", "b0"}, "weights", "['w1'] transposed"),
    "strange": (lambda *a: sweep(*a, back="w4"), {"w0", "b0"}, "unknown", "no familiar way"),
    "captured": (
        lambda p, x, y: sweep(at(seed=1)[0], x, y),
        {"w0", "b0", "w1", "w2", "w3"},
        "stale",
        "whatever parameters",
    ),
    "missing": (lambda *a: {k: g for k, g in sweep(*a).items() if k != "w1"}, {"w1"}, "structure", "nothing for this"),
    "oblong": (
        edited(w0=lambda g: g["w0"].T),
        {"w0"},
        "transpose",
        "has shape (5, 3), the parameter (3, 5): it is transposed",
    ),
    "shape": (edited(b0=lambda g: g["b0"][None]), {"b0"}, "shape", "has shape (1, 5)"),
    "dtype": (edited(b0=lambda g: g["b0"].astype("float16")), {"b0"}, "dtype", "float16, the parameter float32"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_familiar_mistakes_are_told_apart(name):
    gradient, wrong, kind, words = MISTAKES[name]
    report = jbp.check_gradient(loss, gradient, *at())
    assert set(names(report)) == wrong, str(report)
    assert kinds(report) == {kind}, str(report)
    assert words in next(row.diagnosis.text for row in report.rows if not row.ok)


def test_what_is_no_parameter_and_other_containers():
    report = jbp.check_gradient(loss, edited(extra=lambda g: g["w0"]), *at())
    assert names(report) == ["extra"]
    report = jbp.check_gradient(loss, lambda *a: sweep(*a)["w0"], *at())
    assert names(report)[:5] == ["b0", "w0", "w1", "w2", "w3"]
    assert jbp.check_gradient(lambda p: jnp.sum(p[0] ** 2), lambda p: [2 * p[0]], (jnp.ones(2),)).ok
    assert not jbp.check_gradient(lambda p: jnp.sum(p[0] ** 2), lambda p: [3 * p[0]], (jnp.ones(2),)).ok


def test_a_small_error_is_found_however_large_the_value_and_the_tree():
    def value(p, x, y):
        return loss({k: v for k, v in p.items() if k != "more"}, x, y) + 1e3 * jnp.sum(p["more"] ** 2)

    def gradient(p, x, y, factor=1.0):
        return sweep({k: v for k, v in p.items() if k != "more"}, x, y) | {"more": factor * 2e3 * p["more"]}

    p, x, y = at()
    p |= {"more": jnp.full(10_000, 30.0)}
    assert jbp.check_gradient(value, gradient, p, x, y).ok
    report = jbp.check_gradient(
        value, lambda *a: gradient(*a) | {"b0": gradient(*a)["b0"].at[2].mul(1 + 1e-6)}, p, x, y
    )
    assert names(report) == ["b0"]


def test_what_is_right_in_float64_alone():
    report = jbp.check_gradient(
        lambda w: jnp.sum(jnp.log1p(jnp.exp(-jnp.abs(w))) + jnp.maximum(w, 0)),
        lambda w: jnp.exp(w) / (1 + jnp.exp(w)),
        jnp.array([1.0, 100.0]),
    )
    assert kinds(report) == {"not finite"}
    assert "right in float64, but in float32 1 of 2 entries are not finite" in str(report)


# Points and kinks


@pytest.mark.parametrize("seed", range(12))
def test_a_missing_mask_is_found_from_any_point_of_the_exercise(seed):
    """One example, one unit a layer: from most points the mistake is not to be seen."""
    network = jbp.skip_mlp((1, 1, 1, 1))
    point = draw(network, "half_squared_error", 1, "float32", seed)

    def no_mask_at_h1(p, x, y):
        w = {"w0": p["h0"]["x"], "w1": p["h1"]["h0"], "w2": p["yhat"]["h1"], "w3": p["yhat"]["h0"]}
        h0 = jax.nn.relu(x @ w["w0"])
        h1 = jax.nn.relu(h0 @ w["w1"])
        dz2 = h1 @ w["w2"] + h0 @ w["w3"] - y
        dz1 = dz2 @ w["w2"]
        dz0 = jnp.where(x @ w["w0"] >= 0, dz1 @ w["w1"] + dz2 @ w["w3"], 0)
        return {"h0": {"x": dz0 * x}, "h1": {"h0": dz1 * h0}, "yhat": {"h1": dz2 * h1, "h0": dz2 * h0}}

    report = jbp.check_gradient(jbp.plain_loss(network, "half_squared_error"), no_mask_at_h1, *point)
    assert kinds(report) == {"derivative missing"}, str(report)
    assert report.both_sides == report.units == 2


@pytest.mark.parametrize(
    ("slope", "ok"), [(0, True), (0.3, True), (1, True), (1.5, False), (-0.5, False), (np.nan, False)]
)
def test_at_a_kink_any_slope_between_the_two_is_right_and_no_other(slope, ok):
    def gradient(w):
        return jnp.where(w > 0, 1.0, jnp.where(w < 0, 0.0, slope)).astype(w.dtype)

    report = jbp.check_gradient(lambda w: jnp.sum(jax.nn.relu(w)), gradient, jnp.array([0.0, -1.0, 2.0]))
    assert report.ok == ok, str(report)
    if slope in (0.3, 1):  # jax.nn.relu's own is 0
        assert report.rows[0].kinks.at >= 1


def test_what_is_right_at_kinks_excuses_nothing_elsewhere():
    w = jnp.concatenate([jnp.zeros(100), jnp.ones(100)])
    value = lambda w: jnp.sum(jax.nn.relu(w))  # noqa: E731
    assert jbp.check_gradient(value, lambda w: jnp.where(w >= 0, 1.0, 0), w).ok
    assert not jbp.check_gradient(value, lambda w: jnp.where(jnp.arange(200) < 100, 1, 1.05) * (w >= 0), w).ok
    nan_at_0 = lambda w: w / jnp.abs(w)  # noqa: E731
    assert kinds(jbp.check_gradient(lambda w: jnp.sum(jnp.abs(w)), nan_at_0, jnp.array([0.0, 1.0]))) == {"not finite"}


def test_units_that_sit_on_their_kinks_together_are_no_false_alarm():
    """relu(−relu(t)) is 0 on both sides of t = 0; by the chain rule with relu'(0) = 1 its derivative is −1."""
    value = lambda w: relu(-relu(w))  # noqa: E731
    relu = lambda z: jnp.where(z < 0, 0, z)  # noqa: E731
    for slope in (0.0, -0.5, -1.0):
        report = jbp.check_gradient(value, lambda w, s=slope: jnp.where(w == 0, s, 0.0), jnp.float32(0))
        assert report.ok, str(report)
    assert not jbp.check_gradient(value, lambda w: jnp.where(w == 0, 0.5, 0.0), jnp.float32(0)).ok


def test_kinks_between_the_points_are_stepped_around():
    w = jnp.array([1e-4, 1.0, -2.0])
    report = jbp.check_gradient(lambda w: jnp.sum(jnp.abs(w)), jnp.sign, w)
    assert report.ok, str(report)
    assert report.rows[0].kinks.near >= 1
    assert report.rows[0].error_differences < 1e-6


@pytest.mark.parametrize("length", [6, 600])
def test_inside_a_long_scan_kinks_are_not_seen_and_it_is_said(length):
    def value(w, x):
        return jax.lax.scan(lambda total, row: (total + jnp.sum(jnp.abs(row * w)), None), 0.0, x)[0]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(length, 4)), "float32")
    w = jnp.arange(1.0, 5.0)
    with_scan = jax.tree_util.Partial(value)
    report = jbp.check_gradient(with_scan, lambda w, x: jnp.sum(jnp.abs(x), axis=0) * jnp.sign(w), w, x)
    assert report.ok, str(report)
    assert ("cannot look into scan" in str(report)) == (length > 6)
    assert ("no two-sided decisions outside of scan" in report.coverage) == (length > 6)
    assert report.outcome == ("right" if length == 6 else "right where looked at")
    assert not jbp.check_gradient(with_scan, lambda w, x: jnp.sum(jnp.abs(x), axis=0), -w, x).ok


# When jax.grad is not the truth


@jax.custom_vjp
def wrongly_ruled_square(w):
    return jnp.sum(w**2)


wrongly_ruled_square.defvjp(lambda w: (jnp.sum(w**2), w), lambda w, d: (3 * w * d,))


def test_differences_do_not_trust_jax_grad():
    w = jnp.array([1.0, 2.0])
    report = jbp.check_gradient(wrongly_ruled_square, lambda w: 3 * w, w)
    assert kinds(report) == {"jax.grad"}
    report = jbp.check_gradient(wrongly_ruled_square, lambda w: 2 * w, w)
    assert report.ok, str(report)
    assert "jax.grad of the value is wrong for params" in report.notes[0]
    assert not jbp.check_gradient(wrongly_ruled_square, lambda w: 2.01 * w, w).ok


def test_where_jax_grad_is_nan_a_right_gradient_is_right():
    def value(w):
        return jnp.sum(jnp.where(w > 0, jnp.sqrt(w), 0.0))  # at 0 the branch not taken gives 0 · inf

    w = jnp.array([4.0, -1.0])
    assert bool(jnp.isnan(jax.grad(value)(w)).any())
    report = jbp.check_gradient(value, lambda w: jnp.where(w > 0, 0.5 / jnp.sqrt(jnp.where(w > 0, w, 1)), 0), w)
    assert report.ok, str(report)


def test_a_constant_factor_is_found_at_an_optimum_too():
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(40, 5)), rng.normal(size=40)
    w = np.linalg.lstsq(A, b)[0]
    value = lambda w: 0.5 * jnp.mean((A @ w - b) ** 2)  # noqa: E731
    with jax.enable_x64(True):
        assert jbp.check_gradient(value, lambda w: A.T @ (A @ w - b) / 40, jnp.asarray(w)).ok
        assert not jbp.check_gradient(value, lambda w: 1.05 * A.T @ (A @ w - b) / 40, jnp.asarray(w)).ok


@pytest.mark.parametrize("inside", ["float32", "bfloat16"])
def test_a_value_that_narrows_inside(inside):
    value = lambda w, x: jnp.mean(jnp.tanh(x @ w).astype(inside).astype(w.dtype) ** 2)  # noqa: E731
    w, x = (jnp.asarray(np.random.default_rng(0).normal(size=s), "float32") for s in ((4, 3), (6, 4)))
    report = jbp.check_gradient(value, jax.grad(value), w, x)
    assert report.ok, str(report)
    assert f"the value computes in {inside} inside" in str(report)
    assert not jbp.check_gradient(value, lambda *a: -jax.grad(value)(*a), w, x).ok


@pytest.mark.parametrize("margin", [5.0, 25.0, 36.0])
def test_a_confident_classifier(margin):
    value = lambda w, x: -jax.nn.log_softmax(x @ w)[0, 0]  # noqa: E731
    gradient = lambda w, x: x.T @ (jax.nn.softmax(x @ w) - jnp.array([[1.0, 0, 0]]))  # noqa: E731
    report = jbp.check_gradient(value, gradient, jnp.array([[margin, 0, 0]]), jnp.ones((1, 1)))
    assert report.ok, str(report)


def test_a_stop_gradient_is_held_where_differences_move():
    """A semi-gradient, as in temporal-difference learning: the target is a constant for the derivative."""
    rng = np.random.default_rng(0)
    w, s, s2 = (jnp.asarray(rng.normal(size=size), "float32") for size in (3, (8, 3), (8, 3)))
    value = lambda w, s, s2: 0.5 * jnp.mean((s @ w - jax.lax.stop_gradient(1 + 0.9 * s2 @ w)) ** 2)  # noqa: E731
    gradient = lambda w, s, s2: s.T @ (s @ w - 1 - 0.9 * s2 @ w) / 8  # noqa: E731
    report = jbp.check_gradient(value, gradient, w, s, s2)
    assert report.ok, str(report)
    full = lambda w, s, s2: (s - 0.9 * s2).T @ (s @ w - 1 - 0.9 * s2 @ w) / 8  # noqa: E731
    assert not jbp.check_gradient(value, full, w, s, s2).ok


def test_a_mask_behind_stop_gradient_is_a_decision_and_pooling_is_one():
    straight = lambda z: z * jax.lax.stop_gradient((z > 0).astype(z.dtype))  # noqa: E731
    report = jbp.check_gradient(
        lambda w: jnp.sum(straight(w)), lambda w: jnp.where(w > 0, 1.0, 0.0), jnp.array([0.0, 2.0, 3.0])
    )
    assert report.ok, str(report)
    assert report.units == report.both_sides == 3
    pooled = lambda w: jnp.sum(jax.lax.reduce_window(w, -jnp.inf, jax.lax.max, (2,), (2,), "VALID") ** 2)  # noqa: E731
    report = jbp.check_gradient(pooled, jax.grad(pooled), jnp.array([1.0, 2.0, 4.0, 3.0]))
    assert (report.outcome, report.notes) == ("right", ()), str(report)


def test_a_value_that_has_changed_is_checked_as_it_is():
    class Scaled:
        c = 1.0

        def __call__(self, w):
            return self.c * jnp.sum(w**2)

    value, w = Scaled(), jnp.array([1.0, 2.0])
    assert jbp.check_gradient(value, lambda w: 2 * w, w).ok
    value.c = 5.0
    assert jbp.check_gradient(value, lambda w: 10 * w, w).ok
    assert not jbp.check_gradient(value, lambda w: 2 * w, w).ok


def test_numpy_in_float64_and_gradients_that_refuse():
    w = np.array([1.0, 2.0])
    assert jbp.check_gradient(lambda w: jnp.sum(w**2), lambda w: 2 * np.asarray(w, np.float64), w).ok

    def picky(w):
        if w.dtype != jnp.float32 or bool(jnp.any(w < 0)):
            raise ValueError("positive float32 alone")
        return jnp.zeros_like(w).at[:].set(1 / w)

    report = jbp.check_gradient(lambda w: jnp.sum(jnp.log(jnp.abs(w))), picky, jnp.array([1.0, 2.0]))
    assert report.ok, str(report)
    assert "at some drawn parameters the gradient raises ValueError: positive float32 alone" in str(report)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_functions_that_close_over_numpy_arrays_and_go_on_working(x64, compiled):
    """JAX keeps one dtype for an array of NumPy's as long as anything compiled holds it."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(40, 5)), rng.normal(size=40)
    maybe = jax.jit if compiled else lambda function: function
    value, gradient = maybe(lambda w: 0.5 * jnp.mean((A @ w - b) ** 2)), maybe(lambda w: A.T @ (A @ w - b) / 40)
    with jax.enable_x64(x64):
        w = jnp.ones(5)
        for _ in range(2):
            value(w)
            report = jbp.check_gradient(value, gradient, w)
            assert report.ok, str(report)
            assert not jbp.check_gradient(value, maybe(lambda w: 1.001 * A.T @ (A @ w - b) / 40), w).ok
            assert gradient(w).dtype == jax.jit(jax.grad(value))(w).dtype == w.dtype


def test_a_compiled_function_elsewhere_that_holds_the_same_numpy_array():
    rng = np.random.default_rng(0)
    A, b, w = rng.normal(size=(40, 5)), rng.normal(size=40), jnp.ones(5)
    elsewhere = jax.jit(lambda w: A @ w - b)
    elsewhere(w)
    value = lambda w: 0.5 * jnp.mean((A @ w - b) ** 2)  # noqa: E731
    report = jbp.check_gradient(value, lambda w: A.T @ (A @ w - b) / 40, w)
    assert report.ok, str(report)
    assert elsewhere(w).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_the_user_has_compiled_stays_compiled(dtype, monkeypatch):
    """A trace counts; the check traces a copy, whose counts are its own."""
    monkeypatch.setattr(jax, "clear_caches", lambda: pytest.fail("everything compiled is forgotten"))
    A, w, traces = np.random.default_rng(0).normal(size=(40, 5)).astype(dtype), jnp.ones(5), []

    @jax.jit
    def inner(w):
        traces.append("inner")
        return A @ w

    @jax.jit
    def value(w):
        traces.append("value")
        return 0.5 * jnp.sum(inner(w) ** 2)

    @jax.jit
    def gradient(w):
        traces.append("gradient")
        return A.T @ inner(w)

    value(w), gradient(w)
    before = len(traces)
    assert jbp.check_gradient(value, gradient, w).ok
    assert (value(w).dtype, gradient(w).dtype) == (jnp.float32, jnp.float32)
    assert len(traces) == before


def test_random_numbers_drawn_inside_are_refused_with_what_to_do():
    key = jax.random.key(0)
    value = lambda w, x: jnp.mean((x * jax.random.bernoulli(key, 0.5, x.shape)) @ w) ** 2  # noqa: E731
    w, x = jnp.ones(3), jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), "float32")
    with pytest.raises(ValueError, match="it draws random numbers inside"):
        jbp.check_gradient(value, jax.grad(value), w, x)


def test_an_unfamiliar_error_in_an_unusual_program_is_only_unfamiliar():
    def value(p, x):
        return jnp.mean(jnp.sum(p["w1"][None] * jnp.tanh(x @ p["w0"])[:, None, :], -1) ** 2)

    p = {"w0": jnp.ones((3, 5)) / 3, "w1": jnp.eye(5) + 0.1}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), "float32")
    wrong = lambda p, x: jax.tree.map(lambda g: g + 0.01 * jnp.sin(g), jax.grad(value)(p, x))  # noqa: E731
    assert kinds(jbp.check_gradient(value, wrong, p, x)) == {"unknown"}


# Functions with a derivative rule of their own


@jax.custom_vjp
def swish(x, scale):
    return {"out": scale * x * jax.nn.sigmoid(x)}


def swish_backward(residuals, d):
    x, scale = residuals
    s = jax.nn.sigmoid(x)
    return d["out"] * scale * (s + x * s * (1 - s)), jnp.sum(d["out"] * x * s)


swish.defvjp(lambda x, scale: (swish(x, scale), (x, scale)), swish_backward)


@jax.custom_vjp
def halved_swish(x, scale):
    return swish(x, scale)


halved_swish.defvjp(
    lambda x, scale: (swish(x, scale), (x, scale)),
    lambda r, d: (swish_backward(r, d)[0], swish_backward(r, d)[1] / 2),
)


def test_check_vjp_finds_the_argument_whose_rule_is_wrong():
    x, scale = jnp.linspace(-2, 2, 6).reshape(2, 3), jnp.float32(1.5)
    assert jbp.check_vjp(swish, x, scale).ok
    report = jbp.check_vjp(halved_swish, x, scale)
    assert [(row.parameter, row.ok) for row in report.rows] == [("x", True), ("scale", False)]
    plain = lambda x, scale: {"out": scale * jax.nn.silu(x)}  # noqa: E731
    assert jbp.check_vjp(swish, x, scale, reference=plain).ok
    assert not jbp.check_vjp(halved_swish, x, scale, reference=plain).ok


def test_check_vjp_leaves_integers_alone_and_names_what_does_not_fit():
    rows = lambda table, i: table[i] ** 2  # noqa: E731
    assert jbp.check_vjp(rows, jnp.arange(1.0, 4.0), jnp.array([0, 2, 2]), reference=rows).ok
    with pytest.raises(ValueError, match="nothing to differentiate"):
        jbp.check_vjp(lambda i: i, jnp.arange(3))
    with pytest.raises(ValueError, match="must be the same function"):
        jbp.check_vjp(jnp.sin, jnp.ones(3), reference=jnp.sum)


def test_our_own_rules_pass():
    network = jbp.skip_mlp((3, 5, 4, 2), "gelu", bias=True)
    params, x, _ = draw(network, "half_squared_error", 6, "float32")
    assert jbp.check_vjp(jbp.apply(network), params, x).ok


# The report, and what cannot be checked


def test_the_report_reads_well_and_goes_through_json():
    report = jbp.check_gradient(loss, lambda *a: sweep(*a, skip=0), *at())
    lines = str(report).splitlines()
    assert lines[0] == "gradient check: WRONG for 2 of 5 parameters: ['b0'], ['w0']"
    assert lines[7].startswith("['b0'], ['w0']: the path through ['w3'] is missing")
    assert lines[8].startswith("    ['b0'] at [")
    assert "where" in lines[8]
    assert "wrong for examples" in lines[8]
    assert lines[-1].endswith("decisions (max, abs, comparisons) seen on both sides")
    assert len({line.index("WRONG" if "WRONG" in line else "right") for line in lines[2:7]}) == 1
    told = json.loads(json.dumps(report.to_dict()))
    assert told["ok"] is False
    assert told["rows"][0]["diagnosis"]["kind"] == "path missing"


def test_examples_are_named_by_themselves():
    def wrong_for_negative_targets(p, x, y):
        g = sweep(p, x, y)
        return g | {"w2": g["w2"] + jnp.mean(jnp.where(y[:, :1] < 0, 0.1, 0))}

    report = jbp.check_gradient(loss, wrong_for_negative_targets, *at())
    assert report.rows[3].examples == tuple(np.flatnonzero(at()[2][:, 0] < 0))


def test_assert_gradient_is_silent_or_says_all():
    assert jbp.assert_gradient(loss, sweep, *at()).ok
    with pytest.raises(AssertionError, match="the path through"):
        jbp.assert_gradient(loss, lambda *a: sweep(*a, skip=0), *at())


def test_a_check_can_be_repeated():
    assert str(jbp.check_gradient(loss, sweep, *at())) == str(jbp.check_gradient(loss, sweep, *at()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda w: w, lambda w: w, jnp.ones(3)), r"value returns shape \(3,\), expected a scalar"),
        ((lambda w: (w[0], w[1]), lambda w: w, jnp.ones(3)), "value returns a tuple, expected a scalar"),
        ((lambda w: 0.0, lambda w: w, {}), "nothing to check"),
        ((lambda w: jnp.sum(w), lambda w: w, {"w": jnp.arange(3)}), r"\['w'\] has none\): there is nothing to check"),
        ((jnp.sum, jnp.ones_like, jnp.array([1.0, jnp.nan])), "params holds NaN or infinity"),
        ((lambda w: jnp.sum(jnp.log(w)), lambda w: 1 / w, jnp.array([-1.0])), "value is not finite"),
        (
            (lambda w: jnp.sum(jax.lax.add(w, np.ones(2, "float32"))), lambda w: w, jnp.ones(2)),
            "value does not run in float64",
        ),
    ],
)
def test_what_cannot_be_checked_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jbp.check_gradient(*arguments)
