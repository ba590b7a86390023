"""What lies between the factors and a norm stays small, however large the batch; and equal sweeps are compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp
from jaxbackprop import arithmetic

T = 64
SLACK = 2**13  # bytes: the answers themselves, and some words for each example


def outer(params, x):
    return jnp.sum(jnp.sin(x @ params["w"]))


def rows(params, ids):
    return jnp.sum(jnp.sin(params["e"][ids]))


def tied(params, ids):
    """A lookup, and the same table turned: rows·rows, rows·outer and outer·outer."""
    h = params["e"][ids] * jnp.cos(ids)[:, None]
    return jnp.sum(jnp.sin(jnp.tanh(h) @ params["e"].T))


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")


def words(b, t=T):
    return jnp.asarray(np.random.default_rng(1).integers(0, 64, size=(b, t)))


LOSSES = {
    "outer, by the Gram of positions": (outer, {"w": normal(128, 256)}, lambda b: normal(b, T, 128)),
    "outer, by the gradient": (outer, {"w": normal(32, 32)}, lambda b: normal(b, T, 32)),
    "rows": (rows, {"e": normal(64, 16)}, words),
    "tied": (tied, {"e": normal(64, 16)}, words),
}


def temporaries(readout, fg) -> int:
    """Bytes beside what goes in and comes out; the readout is compiled anew."""
    return jax.jit(lambda fg: readout(fg)).lower(fg).compile().memory_analysis().temp_size_in_bytes


def swept(name, b):
    loss, params, batch = LOSSES[name]
    return jax.jit(jbp.factored(loss))(params, batch(b))[1]


@pytest.mark.parametrize("name", LOSSES)
def test_norms_need_no_more_for_a_larger_batch(monkeypatch, name):
    monkeypatch.setattr(arithmetic, "LARGEST", 2**13)  # tiles of 2 or 8 examples
    few, many = (swept(name, b) for b in (16, 128))
    used = temporaries(jbp.norms, many)
    assert used <= temporaries(jbp.norms, few) + SLACK
    assert used < sum(a.nbytes for a in jax.tree.leaves(many)) / 4  # far less than a copy of the factors


def test_clipping_needs_no_more_for_a_larger_batch(monkeypatch):
    """A leaf that is kept as factors: 16 positions of 64 + 64 numbers against 64 · 64."""
    monkeypatch.setattr(arithmetic, "LARGEST", 2**9)
    used = []
    for b in (8, 64):
        _, fg = jax.jit(jbp.factored(outer))({"w": normal(64, 64)}, normal(b, 16, 64))
        assert [use.kind for use in jbp.clip(fg, 1.0).uses] == ["outer"]
        used.append(temporaries(lambda fg: jbp.clip(fg, 1.0), fg))
    assert used[1] <= used[0] + SLACK


def test_norms_need_no_more_where_the_tile_does_not_divide_the_batch(monkeypatch):
    monkeypatch.setattr(arithmetic, "LARGEST", 5 * 2**10)
    few, many = (swept("outer, by the gradient", b) for b in (9, 64))
    assert temporaries(jbp.norms, many) <= temporaries(jbp.norms, few) + SLACK


def test_norms_need_no_more_where_a_tile_is_one_example(monkeypatch):
    monkeypatch.setattr(arithmetic, "LARGEST", 2**12)
    few, many = (swept("rows", b) for b in (8, 64))
    assert temporaries(jbp.norms, many) <= temporaries(jbp.norms, few) + SLACK


def test_a_long_lookup_keeps_to_the_bound(monkeypatch):
    monkeypatch.setattr(arithmetic, "LARGEST", 2**12)
    _, fg = jbp.factored(rows)({"e": normal(64, 2)}, words(2, 512))
    assert temporaries(jbp.norms, fg) < 4 * 512 * 512


@pytest.mark.parametrize("name", LOSSES)
def test_in_tiles_the_answers_are_the_same(monkeypatch, name):
    """7 examples, which no tile divides."""
    fg = swept(name, 7)
    other = jax.tree.map(lambda a: a[:3], fg)
    readouts = lambda fg: (jbp.norms(fg), jbp.gram(fg, other), jbp.gram(other, fg), jbp.total(jbp.clip(fg, 1.0)))  # noqa: E731
    wanted = jax.jit(readouts)(fg)
    G = np.concatenate([np.asarray(g).reshape(7, -1) for g in jax.tree.leaves(jbp.materialise(fg))], axis=1)
    np.testing.assert_allclose(wanted[0], np.linalg.norm(G, axis=1), rtol=1e-5)
    for largest in (1, 7 * T, 3 * 2**12):  # positions one, seven, or all at a time
        monkeypatch.setattr(arithmetic, "LARGEST", largest)
        found = jax.jit(lambda fg: readouts(fg))(fg)
        for a, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, right, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(right))))


def test_equal_sweeps_are_compiled_once():
    """What is static in the factors is equal for equal shapes, though each sweep traces the loss anew."""
    traces = []

    @jax.jit
    def norms(fg):
        traces.append(1)
        return jbp.norms(fg)

    for name in LOSSES:
        traces.clear()
        loss, params, batch = LOSSES[name]
        first, second = (jbp.factored(loss)(params, batch(4))[1] for _ in range(2))
        assert jax.tree.structure(first) == jax.tree.structure(second)
        assert hash(first.uses) == hash(second.uses)
        norms(first), norms(second), norms(jax.tree.map(lambda a: 2 * a, first))
        assert len(traces) == 1
        norms(jbp.factored(loss)(params, batch(5))[1])
        assert len(traces) == 2


def test_a_streamed_sum_is_compiled_once():
    traces = []

    def loss(params, x):
        traces.append(1)
        return outer(params, x)

    params = {"w": normal(3, 4)}
    run = jbp.stream(jbp.factored(loss), jbp.total, tile=2)
    run(params, normal(4, 2, 3))
    n = len(traces)
    run(params, 2 * normal(4, 2, 3))
    # asked for again, with the same loss and readout, it is the same program
    jbp.stream(jbp.factored(loss), jbp.total, tile=2)(params, normal(4, 2, 3))
    assert len(traces) == n > 0
