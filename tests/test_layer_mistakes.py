"""Backward passes of layers as people write them: the right ones give no alarm, the wrong ones are caught, named and told."""

import jax
import jax.numpy as jnp
import pytest
from checker_layers import LAYERS, at, drawn
from checker_networks import draw_case, point_of

import jaxbackprop as jbp

CASES = [(layer, mistake) for layer, (_, _, mistakes) in LAYERS.items() for mistake in mistakes]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_right_backward_pass_gives_no_alarm(layer):
    value, gradient, _ = LAYERS[layer]
    report = jbp.check_gradient(value, gradient, *at(layer))
    assert report.outcome == "right", str(report)


@pytest.mark.parametrize(("layer", "mistake"), CASES)
def test_a_wrong_one_is_caught_named_and_told(layer, mistake):
    value, gradient, mistakes = LAYERS[layer]
    wrong, words = mistakes[mistake]
    report = jbp.check_gradient(value, lambda *args: gradient(*args, mistake=mistake), *at(layer))
    assert {row.parameter[2:-2] for row in report.rows if not row.ok} == wrong, str(report)
    said = next(row.diagnosis.text for row in report.rows if not row.ok)
    assert ("no familiar way" in said) == (words is None), said
    assert [word for word in words or [] if word not in said] == [], said


def test_truths_and_integers_in_the_value_are_no_steps_to_be_wrong_at():
    def value(w, ids):
        kept = jnp.where(w > 0, w, 0.1 * w)[ids]
        return jnp.sum(kept * (kept > 0.5) * jnp.sin(w).astype(int)[ids]) + jnp.sum(kept * kept[::-1])

    at = jnp.linspace(-1, 2, 5), jnp.array([0, 3, 3, 4])
    wrong = lambda w, ids: jax.grad(value)(w, ids) + 0.01 * jnp.sin(w)  # noqa: E731
    report = jbp.check_gradient(value, wrong, *at)
    assert report.rows[0].diagnosis.kind == "unknown", str(report)


def test_most_of_them_are_told():
    told = [LAYERS[layer][2][mistake][1] is not None for layer, mistake in CASES]
    assert (sum(told), len(told)) == (48, 58)


def test_a_line_that_runs_in_several_places_is_told_by_its_run():
    def normal(z, mean):
        return (z - mean) / jnp.sqrt(jnp.var(z, axis=-1, keepdims=True) + 1e-5)

    def value(p, x, hold=lambda mean: mean):
        first = x @ p["w"]
        second = normal(first, jnp.mean(first, axis=-1, keepdims=True)) @ p["v"]
        return jnp.sum(normal(second, hold(jnp.mean(second, axis=-1, keepdims=True))) ** 3)

    p = drawn(w=(3, 5), v=(5, 5))
    held = jax.grad(lambda p, x: value(p, x, jax.lax.stop_gradient))  # the second mean alone is taken as constant
    report = jbp.check_gradient(value, held, p, drawn(1, x=(4, 3))["x"])
    assert not report.ok
    assert all("is left out in run 2 of the 2 runs of that line" in row.problem for row in report.rows), report


@pytest.mark.parametrize("number", [8, 41])
def test_two_gradients_swapped_where_one_line_has_products_of_many_shapes(number):
    """The diagnosis once raised: it put the array of one run of a line where another run has one of another shape."""
    case = draw_case(number)
    first, second = {8: (("h1", "h0"), ("h2", "h1")), 41: (("h2", "h1"), ("h3", "h2"))}[number]

    def swapped(params, *data):
        right = case.gradient(params, *data)
        found = {layer: dict(edges) for layer, edges in right.items()}
        found[first[0]][first[1]], found[second[0]][second[1]] = right[second[0]][second[1]], right[first[0]][first[1]]
        return found

    report = jbp.check_gradient(case.value, swapped, *point_of(case))
    assert [row.parameter for row in report.rows if not row.ok] == [f"['{a}']['{b}']" for a, b in (first, second)]
    assert {row.diagnosis.kind for row in report.rows if not row.ok} == {"swapped"}
