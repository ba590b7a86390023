"""Any loss's factored gradients against vmap(jax.grad), for every case of the zoo, in float64, through every readout."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax.flatten_util import ravel_pytree

import jaxbackprop as jbp

SIZE, KEY = 2, 3  # of sketches
# each program runs once: compiling it is what takes the time
QUICKLY = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
SEVERAL = ("mlp", "conv_2d", "tied", "layer_norm", "scan_lstm", "cond", "penalty", "argnums", "in_axes_none", "nested")
EVERYTHING = {*SEVERAL, *list(zoo.ZOO)[::8]}


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


# ---- what is asked


def axes_of(case):
    """in_axes, one for each argument of the batch."""
    return case.in_axes if isinstance(case.in_axes, tuple) else (case.in_axes,) * len(case.batch)


def with_params(case, batch, params):
    """The loss's arguments: the batch, with the parameters put in at argnums."""
    arguments = list(batch)
    pairs = zip(case.argnums, params, strict=True) if isinstance(case.argnums, tuple) else [(case.argnums, params)]
    for place, part in pairs:
        arguments.insert(place, part)
    return arguments


def none_of(case):
    """in_axes of the parameters."""
    return (None,) * len(case.params) if isinstance(case.argnums, tuple) else None


def factored(case, params, batch, **more):
    """(values, fg, aux)."""
    call = jbp.factored(case.loss, argnums=case.argnums, in_axes=case.in_axes, has_aux=case.has_aux)
    values, fg = call(*with_params(case, batch, params), **more)
    return (values[0], fg, values[1]) if case.has_aux else (values, fg, ())


def oracle(case, params, batch):
    """(values, each example's gradient, aux), by vmap(jax.value_and_grad)."""
    one = jax.value_and_grad(case.loss, argnums=case.argnums, has_aux=case.has_aux)
    axes = tuple(with_params(case, axes_of(case), none_of(case)))
    values, each = jax.vmap(one, in_axes=axes)(*with_params(case, batch, params))
    return (values[0], each, values[1]) if case.has_aux else (values, each, ())


def readouts(fg: Any, weight, direction, bound, examples: int) -> dict[str, Any]:
    """Every readout of one factored gradient, by name."""
    whole, by_layer = jbp.clip(fg, bound), jbp.clip(fg, bound, per_layer=True)
    several = {} if examples == 1 else readouts_of_several(fg)
    return several | {
        "materialise": jbp.materialise(fg),
        "total": jbp.total(fg),
        "weighted total": jbp.total(fg, weight),
        "norms": jbp.norms(fg),
        "clipped": jbp.materialise(whole),
        "clipped total": jbp.total(whole),
        "clipped by layer": jbp.materialise(by_layer),
        "clipped total by layer": jbp.total(by_layer),
        "gram": jbp.gram(fg),
        "compact gram": jbp.gram(jbp.compact(fg)),
        "inner": jbp.inner(fg, direction),
        "moments": jbp.moments(fg)._asdict(),
        "kronecker": jbp.kronecker(fg),
    }


def few_readouts(fg: Any, weight, _direction, bound, _examples) -> dict[str, Any]:
    """What is asked of every case."""
    return {
        "materialise": jbp.materialise(fg),
        "weighted total": jbp.total(fg, weight),
        "norms": jbp.norms(fg),
        "clipped total": jbp.total(jbp.clip(fg, bound)),
    }


def reversed_but_first(tree):
    """Another batch: all examples but the first, from the last."""
    return jax.tree.map(lambda a: a[:0:-1], tree)


def readouts_of_several(fg):
    other, noise = reversed_but_first(fg), jbp.noise_scale(fg)
    return {
        "gram with another": jbp.gram(fg, other),
        "trace": noise.trace,
        "squared norm": noise.squared_norm,
    }


def sketches(fg):
    """Of the batch, and of another."""
    key = jax.random.key(KEY)
    return {"sketch": jbp.project(fg, key, SIZE), "sketch of another": jbp.project(reversed_but_first(fg), key, SIZE)}


# ---- what is expected: (the figure, the size of its terms), by name


def matrix(each):
    return np.concatenate([np.asarray(g, np.float64).reshape(len(g), -1) for g in jax.tree.leaves(each)], axis=1)


def layers_of(each):
    """The layer of each leaf: its path without the last name."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(each)]
    return [jax.tree_util.keystr(path[:-1] or path) for path in paths]


def scaled(each, factors):
    """Each leaf times its factors (b,)."""
    leaves, tree = jax.tree.flatten(each)
    return tree.unflatten([g * f.reshape(-1, *[1] * (g.ndim - 1)) for g, f in zip(leaves, factors, strict=True)])


def clipped(each, bound):
    """As a whole, and by layer."""
    layers, leaves = layers_of(each), jax.tree.leaves(each)
    squares = [np.sum(np.reshape(g, (len(g), -1)) ** 2, axis=1) for g in leaves]
    of_layer = {name: sum(s for s, n in zip(squares, layers, strict=True) if n == name) for name in layers}
    part = bound / len(of_layer) ** 0.5
    return (
        scaled(each, [at_most(sum(squares), bound)] * len(leaves)),
        scaled(each, [at_most(of_layer[name], part) for name in layers]),
    )


def at_most(square, bound):
    return np.minimum(1, bound / np.maximum(np.sqrt(square), 1e-300))


def summed(each, weight):
    """Σ_b c[b] G[b], and the same of absolute values."""
    total = jax.tree.map(lambda g: np.tensordot(weight, g, 1), each)
    return total, jax.tree.map(lambda g: np.tensordot(np.abs(weight), np.abs(g), 1), each)


def expected(each, weight, direction, bound):
    G, (whole, by_layer), one = matrix(each), clipped(each, bound), np.ones(len(weight))
    v, norms = np.asarray(ravel_pytree(direction)[0]), np.linalg.norm(G, axis=1)
    squares = jax.tree.map(lambda g: g**2, each)
    mean, variance = (jax.tree.map(lambda g, f=f: f(g, axis=0), each) for f in (np.mean, np.var))
    return expected_of_several(G, norms) | {
        "materialise": (each, each),
        "total": summed(each, one),
        "weighted total": summed(each, weight),
        "norms": (norms, norms),
        "clipped": (whole, whole),
        "clipped total": summed(whole, one),
        "clipped by layer": (by_layer, by_layer),
        "clipped total by layer": summed(by_layer, one),
        "gram": (G @ G.T, np.outer(norms, norms)),
        "compact gram": (G @ G.T, np.outer(norms, norms)),
        "inner": (G @ v, norms * np.linalg.norm(v)),
        "moments": ({"mean": mean, "variance": variance}, {"mean": each, "variance": squares}),
    }


def expected_of_several(G, norms):
    if len(G) == 1:
        return {}
    trace = G.var(0, ddof=1).sum()
    return {
        "gram with another": (G @ G[:0:-1].T, np.outer(norms, norms)),
        "trace": (trace, np.mean(norms**2)),
        "squared norm": (np.sum(G.mean(0) ** 2) - trace / len(G), np.mean(norms**2)),
    }


# ---- the comparison


def close(name, given, wanted, terms, tolerance):
    """Each leaf within the tolerance of its largest term; what is all 0 must be 0.

    What should be 0 and is a sum that cancels, a bias before a softmax, is rounding: 1e-4 of the tolerance of the largest leaf.
    """
    assert jax.tree.structure(given) == jax.tree.structure(wanted), name
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(wanted), strict=True)
    largest = [np.max(np.abs(t), initial=0) for t in jax.tree.leaves(terms)]
    for path, w, g, size in zip(paths, leaves, jax.tree.leaves(given), largest, strict=True):
        where = f"{name}{jax.tree_util.keystr(path)}"
        assert np.shape(g) == np.shape(w), f"{where}: shape {np.shape(g)}, expected {np.shape(w)}"
        limit = tolerance * max(size, 1e-4 * max(largest) if size else 0)
        error = np.max(np.abs(np.asarray(g, np.float64) - w), initial=0)
        assert error <= limit, f"{where}: off by {error:.3g}, allowed {limit:.3g}"


def compare(given, wanted, tolerance):
    for name, (figure, terms) in wanted.items():
        close(name, given[name], figure, terms, tolerance)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(given.get("kronecker")))
    if "trace" in given:  # the same projections for every batch
        wanted = jax.tree.map(np.asarray, reversed_but_first(given["sketch"]))
        close("sketch of another", given["sketch of another"], wanted, given["sketch"], tolerance)


def in_float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def figures(case, seed=0, everything=True):
    """All readouts, compiled once; what they should be; values and aux of both."""
    rng = np.random.default_rng(seed)
    values, each, aux = jax.jit(lambda p, batch: oracle(case, p, batch), compiler_options=QUICKLY)(
        case.params, case.batch
    )
    weight = rng.normal(size=len(values))
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), case.params)
    each = in_float64(each)
    bound = float(np.median(np.linalg.norm(matrix(each), axis=1))) or 1.0

    @partial(jax.jit, compiler_options=QUICKLY)
    def all_readouts(params, batch, weight, direction, bound):
        values, fg, aux = factored(case, params, batch)
        return (values, aux), some(fg, weight, direction, bound, len(values)), fg if everything else None

    some = readouts if everything else few_readouts
    outputs, given, fg = all_readouts(case.params, case.batch, jnp.asarray(weight), direction, bound)
    wanted = expected(each, weight, direction, bound)
    if not everything:
        wanted = {name: wanted[name] for name in given}
    elif len(weight) > 1:
        given |= sketches(fg)  # outside: the programs of random numbers serve many cases
    return given, wanted, outputs, in_float64((values, aux))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_each_case(name):
    """Sums, norms and whole gradients of every case; all readouts of every eighth, and of SEVERAL."""
    case = zoo.make(name)
    given, wanted, outputs, expected_outputs = figures(case, everything=name in EVERYTHING)
    close("values", *outputs[:1], *[expected_outputs[0]] * 2, case.tolerance)
    close("outputs", outputs, expected_outputs, expected_outputs, case.tolerance)
    compare(given, wanted, case.tolerance)


@pytest.mark.parametrize("name", SEVERAL)
def test_weights_of_examples_outside_jit(name):
    case = zoo.make(name)
    values, each, _ = oracle(case, case.params, case.batch)
    weight = np.random.default_rng(0).uniform(size=len(values))
    given, fg, _ = factored(case, case.params, case.batch, weight=jnp.asarray(weight))
    wanted = scaled(in_float64(each), [weight] * len(jax.tree.leaves(each)))
    close("values", given, *[in_float64(values)] * 2, case.tolerance)
    close("weighted", jbp.materialise(fg), wanted, wanted, case.tolerance)


@pytest.mark.parametrize("name", ["layers", "tied", "conv_2d"])
def test_the_comparison_notices_one_entry(name):
    """One entry of one leaf of one readout, off by 1e-8 of itself."""
    given, wanted, _, _ = figures(zoo.make(name))
    compare(given, wanted, 1e-10)
    for readout in [*wanted, "sketch of another"]:
        leaves, tree = jax.tree.flatten(given[readout])
        for i, leaf in enumerate(leaves):
            changed = tree.unflatten([*leaves[:i], with_one_off(leaf), *leaves[i + 1 :]])
            with pytest.raises(AssertionError, match=f"{readout}.*: off by"):
                compare(given | {readout: changed}, wanted, 1e-10)


def with_one_off(leaf):
    leaf = np.array(leaf)
    largest = np.unravel_index(np.argmax(np.abs(leaf)), leaf.shape)
    leaf[largest] *= 1 + 1e-8
    return leaf


def test_nothing_that_should_be_zero_may_be_small():
    zeros, small = {"a": np.zeros(3), "b": np.ones(2)}, {"a": np.full(3, 1e-30), "b": np.ones(2)}
    close("zero", zeros, zeros, zeros, 1e-10)
    with pytest.raises(AssertionError, match="off by"):
        close("zero", small, zeros, zeros, 1e-10)
    with pytest.raises(AssertionError, match="off by nan"):
        close("zero", zeros | {"b": np.array([1, np.nan])}, zeros, zeros, 1e-10)
