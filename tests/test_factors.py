"""Every kind of use, alone and shared, against vmap(jax.grad): the factors of a model that is no Network.

An embedding tied to the head, a matrix used both ways round, a stack of matrices, a scale: taps are put in by hand here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbackprop as jbp
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.strides import axes_of
from jaxbackprop.views import Use

V, D, K, STACK, B = 7, 3, 4, 2, 5  # words, width, another width, layers, examples
SHAPES = {"embedding": (V, D), "scale": {"s": (D,)}, "stack": {"L": (STACK, D, D), "W": (K, D)}}


def loss(params, taps, ids):
    """The loss of one example, a tap added to every z; and every h."""
    E, s, W, L = params["embedding"], params["scale"]["s"], params["stack"]["W"], params["stack"]["L"]
    x = (E[ids] + taps["x"]) * (s + taps["s"])  # rows, whole
    a = jnp.tanh(x @ W.T + taps["a"])  # outer
    h = [a @ W + taps["b"]]  # the same matrix, the other way round
    for layer in range(STACK):
        h.append(jnp.tanh(h[-1] @ L[layer].T + taps["l"][layer]))
    logits = h[-1] @ E.T + taps["logits"]  # tied
    value = jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2 - jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0])
    return value, {"x": x, "a": a, "l": jnp.stack(h[:-1]), "head": h[-1], "ids": ids}


def example(positions, seed=0, batch=B):
    """A factored gradient with T positions, and the per-example gradients of vmap(jax.grad) as one matrix, in float64."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda shape: jnp.asarray(np.random.default_rng(9).normal(size=shape)), SHAPES, is_leaf=is_shape
    )
    ids = jnp.asarray(rng.integers(0, 3, size=(batch, positions)))  # words recur
    shapes = {"x": (D,), "a": (K,), "b": (D,), "logits": (V,)}
    taps = {name: jnp.zeros((positions, *shape)) for name, shape in shapes.items()}
    taps |= {"s": jnp.zeros(D), "l": jnp.zeros((STACK, positions, D))}
    dz, h = jax.vmap(lambda ids: jax.grad(loss, 1, has_aux=True)(params, taps, ids))(ids)
    each = jax.vmap(lambda ids: jax.grad(lambda p: loss(p, taps, ids)[0])(params))(ids)
    leaves = {name: i for i, name in enumerate(("embedding", "s", "L", "W"))}
    uses = (
        Use(leaves["embedding"], "rows", "x", "ids", "t"),
        Use(leaves["embedding"], "outer", "logits", "head", "t"),
        Use(leaves["s"], "whole", "s"),
        Use(leaves["W"], "outer", "a", "x", "t"),
        Use(leaves["W"], "outer", "b", "a", "t", axes=((), *reversed(axes_of((K, D))))),
        Use(leaves["L"], "outer", "l", "l", "lt"),
    )
    if positions == 1:  # an axis that is not there
        squeezed = ("x", "a", "b", "logits", "head")
        h = {key: a[:, 0] if key in (*squeezed, "ids") else a[:, :, 0] for key, a in h.items()}
        dz = {key: a[:, 0] if key in squeezed else a[:, :, 0] if key == "l" else a for key, a in dz.items()}
        uses = tuple(use._replace(positions=use.positions.replace("t", "")) for use in uses)
    tree, order = jax.tree.structure(params), tuple(np.shape(leaf) for leaf in jax.tree.leaves(params))
    h = {key: a for key, a in h.items() if key in {use.h for use in uses}}
    return FactoredGradient(h, dz, uses, tree, order), each


def is_shape(node):
    return isinstance(node, tuple)


def matrix(each):
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(each)], axis=1)


def close(given, expected, tolerance=1e-12):
    given, expected = np.asarray(given), np.asarray(expected)
    assert given.shape == expected.shape
    assert np.max(np.abs(given - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("positions", [1, 2, 6])
def test_linear_readouts(positions):
    fg, each = example(positions)
    G = matrix(each)
    for given, expected in zip(jax.tree.leaves(jbp.materialise(fg)), jax.tree.leaves(each), strict=True):
        close(given, expected)
    c = np.random.default_rng(1).uniform(size=B)
    close(ravel_pytree(jbp.total(fg, jnp.asarray(c)))[0], c @ G)
    direction = jbp.total(fg)
    close(ravel_pytree(direction)[0], G.sum(0))
    close(jbp.inner(fg, direction), G @ G.sum(0))


@pytest.mark.parametrize("positions", [1, 2, 6])
def test_bilinear_readouts_add_the_uses_before_they_square(positions):
    fg, each = example(positions)
    other, more = example(positions, seed=3, batch=4)
    G, H = matrix(each), matrix(more)
    close(jbp.norms(fg), np.linalg.norm(G, axis=1))
    close(jbp.gram(fg), G @ G.T)
    close(jbp.gram(fg, other), G @ H.T)
    squares = jbp.readouts.squared_norms(fg)
    assert sorted(squares) == ["embedding", "scale", "stack"]
    for layer, square in squares.items():
        close(square, np.sum(matrix(each[layer]) ** 2, axis=1))
    mean, variance = jbp.moments(fg)
    close(ravel_pytree(mean)[0], G.mean(0))
    assert np.max(np.abs(ravel_pytree(variance)[0] - G.var(0))) <= 1e-13 * np.max(G**2)
    found = jbp.noise_scale(fg)
    close(found.trace, G.var(0, ddof=1).sum())
    by_layer = jbp.variance.noise_scales(fg)
    assert sorted(by_layer) == sorted(each)
    for layer, noise in by_layer.items():
        g = matrix(each[layer])
        close(noise.trace, g.var(0, ddof=1).sum())
        close(noise.squared_norm, np.sum(g.mean(0) ** 2) - g.var(0, ddof=1).sum() / B)
    close(sum(noise.squared_norm for noise in by_layer.values()), found.squared_norm)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("per_layer", [False, True])
def test_clipping(positions, per_layer):
    fg, each = example(positions)
    bound = float(np.median(np.linalg.norm(matrix(each), axis=1)))
    if per_layer:
        parts = {layer: matrix(part) for layer, part in each.items()}
        expected = np.concatenate(
            [p * np.minimum(1, bound / 3**0.5 / np.linalg.norm(p, axis=1))[:, None] for p in parts.values()], axis=1
        )
    else:
        G = matrix(each)
        expected = G * np.minimum(1, bound / np.linalg.norm(G, axis=1))[:, None]
    clipped = jbp.clip(fg, bound, per_layer)
    close(matrix(jbp.materialise(clipped)), expected)
    close(ravel_pytree(jbp.total(clipped))[0], expected.sum(0))


@pytest.mark.parametrize("positions", [1, 6, 60])
def test_compact_keeps_the_smaller_and_changes_nothing(positions):
    fg, each = example(positions)
    small = jbp.compact(fg)
    close(matrix(jbp.materialise(small)), matrix(each))
    close(jbp.gram(small), jbp.gram(fg))
    close(jbp.gram(small, fg), jbp.gram(fg))  # formed beside factors
    numbers = [sum(a.size for a in jax.tree.leaves(f)) for f in (small, fg)]
    assert numbers[0] <= numbers[1]
    whole = {use.leaf for use in small.uses if use.kind == "whole"}
    assert whole == ({0, 1, 2, 3} if positions == 60 else {1, 3} if positions == 1 else whole)


def test_a_leaf_without_a_use_has_a_gradient_of_zero():
    fg, each = example(2)
    unused = FactoredGradient(fg.h, fg.dz, tuple(use for use in fg.uses if use.leaf != 3), fg.tree, fg.shapes)
    assert not np.any(jbp.total(unused)["stack"]["W"])
    assert jbp.materialise(unused)["stack"]["W"].shape == (B, K, D)
    assert not np.any(jbp.moments(unused).variance["stack"]["W"])
    close(jbp.readouts.squared_norms(unused)["embedding"], np.sum(np.asarray(each["embedding"]) ** 2, axis=(1, 2)))
    assert jbp.project(unused, jax.random.key(0), 2)["stack"]["W"].shape == (B, 2, 2)


@pytest.mark.parametrize("positions", [1, 4])
def test_inner_products_of_sketches_are_unbiased(positions):
    """Over many keys the mean is the inner product itself, within five standard errors of it."""
    fg, each = example(positions)
    keys = jax.random.split(jax.random.key(1), 4000)

    @jax.jit
    @jax.vmap
    def sketched(key):
        leaves = jax.tree.leaves(jbp.project(fg, key, 3))
        return jnp.stack([jnp.einsum("bqp,cqp->bc", S, S) for S in leaves])

    found = np.asarray(sketched(keys))  # keys, leaves, b, c
    for leaf, G in enumerate(jax.tree.leaves(each)):
        G = np.asarray(G).reshape(B, -1)
        error = np.abs(found[:, leaf].mean(0) - G @ G.T) / (found[:, leaf].std(0) / len(keys) ** 0.5)
        assert np.max(error) < 5
    S = jbp.project(fg, keys[0], 3)
    again = jbp.project(jax.tree.map(lambda a: a[:2], fg), keys[0], 3)
    close(again["stack"]["L"], S["stack"]["L"][:2])  # the same key, the same P
    assert np.max(np.abs(jbp.project(fg, keys[1], 3)["embedding"] - S["embedding"])) > 1e-3


def test_kronecker_factors_of_one_example_are_its_fisher():
    fg, each = example(1, batch=1)
    (factors,) = jbp.kronecker(fg)["stack/L"]
    for layer in range(STACK):
        g = np.asarray(each["stack"]["L"])[0, layer].ravel()
        close(np.kron(factors.S[layer], factors.A[layer]), np.outer(g, g))
    assert len(jbp.kronecker(fg)["stack/W"]) == 2
    fg, _ = example(4)
    (factors,) = jbp.kronecker(fg)["embedding"]
    h, dz = np.asarray(fg.h["head"]), np.asarray(fg.dz["logits"])
    close(factors.A, np.einsum("btm,btk->mk", h, h) / B)
    close(factors.S, np.einsum("btn,btk->nk", dz, dz) / (B * 4))


def test_each_contraction_of_the_tables_is_the_readout():
    """The letters that the docstrings of factors.py, readouts.py and variance.py state, by plain einsum, on the stack's use."""
    fg, _ = example(3)
    h, dz = fg.h["l"], fg.dz["l"]
    V = jbp.total(fg)
    alone = FactoredGradient({"l": h}, {"l": dz}, (fg.uses[-1],), fg.tree, fg.shapes)
    close(jbp.total(alone)["stack"]["L"], jnp.einsum("bltn,bltm->lnm", dz, h))
    close(jbp.materialise(alone)["stack"]["L"], jnp.einsum("bltn,bltm->blnm", dz, h))
    close(jbp.inner(alone, V), jnp.einsum("bltn,lnm,bltm->b", dz, V["stack"]["L"], h))
    close(jbp.norms(alone) ** 2, jnp.einsum("bltm,blum,bltn,blun->b", h, h, dz, dz))
    close(jbp.gram(alone), jnp.einsum("bltm,clum,bltn,clun->bc", h, h, dz, dz))
    second = jbp.variance.power_sums(alone).second["stack"]["L"]
    close(second, jnp.einsum("bltm,blum,bltn,blun->lnm", h, h, dz, dz))


def test_it_goes_through_jit_vmap_and_tiles():
    fg, each = example(3)
    close(jax.jit(jbp.norms)(fg), jbp.norms(fg))
    halves = [jax.tree.map(lambda a, part=part: a[part], fg) for part in (slice(2), slice(2, None))]
    totals = [ravel_pytree(jbp.total(half))[0] for half in halves]
    close(sum(totals), matrix(each).sum(0))


def test_what_does_not_fit_is_refused_by_name():
    fg, _ = example(2)
    for change, message in (
        ({"h": fg.h | {"x": fg.h["x"][:, 0]}}, r"fg.h\['x'\] has shape \(5, 3\), expected \(b, …, 3\)"),
        ({"dz": fg.dz | {"s": fg.dz["s"][:3]}}, r"with one b for all"),
        ({"dz": fg.dz | {"s": fg.dz["s"][:, :2]}}, r"fg.dz\['s'\] has shape \(5, 2\), expected \(b, 3\)"),
    ):
        fields = {"h": fg.h, "dz": fg.dz, "uses": fg.uses, "tree": fg.tree, "shapes": fg.shapes} | change
        for readout in (jbp.norms, jbp.total, jbp.materialise, jbp.gram, jbp.compact, jbp.kronecker):
            with pytest.raises(ValueError, match=message):
                readout(FactoredGradient(**fields))
    with pytest.raises(TypeError, match="key is a int: expected one key"):
        jbp.project(fg, 0, 2)
    for size in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"size is {size}: expected an integer of at least 1"):
            jbp.project(fg, jax.random.key(0), size)


def test_layers_that_share_an_adjoint_are_not_clipped_apart():
    fg, _ = example(2)
    uses = (*fg.uses, Use(1, "whole", "s"), Use(3, "outer", "logits", "head", "t"))
    shapes = tuple((V, D) if i == 3 else shape for i, shape in enumerate(fg.shapes))
    joined = FactoredGradient(fg.h, fg.dz, uses[1:2] + uses[-1:], fg.tree, shapes)
    with pytest.raises(ValueError, match="share an adjoint: clip them as a whole"):
        jbp.clip(joined, 1.0, per_layer=True)
    assert jbp.norms(jbp.clip(joined, 1.0)).shape == (B,)
