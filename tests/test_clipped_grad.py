"""Clipped sums against NumPy on the gradients of vmap(jax.grad), and against jax_privacy where it is installed."""

import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close

import jaxbackprop as jbp
from jaxbackprop.programs import clipped
from jaxbackprop.programs.clipped import AuxiliaryOutput, clipped_grad

B = 6


def loss(params, x, y, v, key=None):
    """One example, or a batch of one."""
    h = jnp.tanh(x @ params["W"].T + params["b"])
    if key is not None:
        h = h + 0.1 * jax.random.normal(key, (3,))
    return jnp.mean((h * v - y) ** 2)


def with_aux(params, x, y, v, key=None):
    h = x @ params["W"].T
    return loss(params, x, y, v, key), {"h": h, "sum": jnp.sum(h), "two": 2}


def numbers(dtype="float32"):
    rng = np.random.default_rng(0)
    W, b, x, y, v = (rng.normal(size=shape) for shape in ((3, 4), (3,), (B, 4), (B, 3), (3,)))
    return jax.tree.map(partial(jnp.asarray, dtype=dtype), ({"W": W, "b": b}, 3 * x, y, v))


def matrix(tree):
    """(examples, numbers)."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def expected_sum(each, C, unit=False, kept=None):
    """Σ_b c[b] dW[b] of gradients (b, …), by NumPy in float64."""
    each = jax.tree.map(lambda g: np.asarray(g, np.float64), each)
    factors = []
    for n in np.linalg.norm(matrix(each), axis=1):
        factor = 1.0 if n <= C else C / n
        factors.append((1 / n if n > C else 1 / C) if unit else factor)
    factors = np.asarray(factors) * (1 if kept is None else kept)
    return jax.tree.map(lambda g: np.tensordot(factors, g, axes=1), each)


def gradients(params, x, y, v, argnums=0):
    return jax.vmap(jax.grad(loss, argnums), (None, 0, 0, None))(params, x, y, v)


def ask(fun=loss, C=0.7, batch=(1, 2), **options):
    return clipped_grad(fun, l2_clip_norm=C, batch_argnums=batch, **options)


# ---- against NumPy, in float64


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("size", [None, 1, 3, 6])
def test_it_is_the_sum_of_clipped_gradients(unit, size):
    with jax.enable_x64(True):
        given = numbers("float64")
        each, options = gradients(*given), {"rescale_to_unit_norm": unit, "normalize_by": 4.0, "microbatch_size": size}
        traced = jax.jit(lambda C, *given: ask(C=C, **options)(*given))
        for C in (0.01, 0.7, 100.0, np.inf):
            assert_close(traced(C, *given), jax.tree.map(lambda g: g / 4, expected_sum(each, C, unit)), 1e-12)
        assert_close(ask(C=C, **options)(*given), traced(C, *given), 1e-12)


def test_no_gradient_of_each_example_is_formed():
    given = numbers()
    program = str(jax.make_jaxpr(ask(return_grad_norms=True))(*given))
    assert "f32[6,4]" in program
    assert "f32[6,3,4]" not in program
    assert "f32[6,3,4]" in str(jax.make_jaxpr(ask(pre_clipping_transform=lambda dW: dW))(*given))


def test_what_is_given_back_of_each_example():
    with jax.enable_x64(True):
        params, x, y, v = numbers("float64")
        each = gradients(params, x, y, v)
        values = jax.vmap(loss, (None, 0, 0, None))(params, x, y, v)
        for size in (None, 2):
            f = ask(with_aux, has_aux=True, return_values=True, return_grad_norms=True, microbatch_size=size)
            dW, aux = f(params, x, y, v)
            assert_close(dW, expected_sum(each, 0.7), 1e-12)
            assert isinstance(aux, AuxiliaryOutput)
            assert_close(aux.values, values, 1e-12)
            assert_close(aux.grad_norms, np.linalg.norm(matrix(each), axis=1), 1e-12)
            # a batch of one gave h (1, 3), and its second axis is dropped
            assert_close(
                aux.aux, {"h": x @ params["W"].T, "sum": jnp.sum(x @ params["W"].T, 1), "two": jnp.full(B, 2)}, 1e-12
            )
        assert ask(return_values=True)(params, x, y, v)[1]._replace(values=None) == (None, None, None)
    assert f.has_aux
    assert not ask().has_aux


def test_argnums_are_those_of_jax_grad():
    with jax.enable_x64(True):
        given = numbers("float64")
        for argnums in (3, (0,), (3, 0), [0, 3]):
            expected = expected_sum(
                gradients(*given, argnums=tuple(argnums) if isinstance(argnums, list) else argnums), 0.7
            )
            assert_close(ask(argnums=argnums)(*given), expected, 1e-12)


def test_each_example_has_a_key_of_its_own():
    with jax.enable_x64(True):
        given, key = numbers("float64"), jax.random.key(3)
        keys = jax.random.split(key, B)
        each = jax.vmap(jax.grad(loss), (None, 0, 0, None, 0))(*given, keys)
        for size in (None, 2):
            found = ask(prng_argnum=4, microbatch_size=size)(*given, key)
            assert_close(found, expected_sum(each, 0.7), 1e-12)
            found = clipped_grad(loss, l2_clip_norm=0.7, batch_argnums=(1, 2, 4), keep_batch_dim=False)(*given, keys)
            assert_close(found, expected_sum(each, 0.7), 1e-12)
        old = jax.random.PRNGKey(3)
        each = jax.vmap(jax.grad(loss), (None, 0, 0, None, 0))(*given, jax.random.split(old, B))
        assert_close(ask(prng_argnum=4)(*given, old), expected_sum(each, 0.7), 1e-12)


@pytest.mark.parametrize("size", [None, 2])
def test_padding_adds_nothing(size):
    with jax.enable_x64(True):
        params, x, y, v = numbers("float64")
        padding = np.array([False, True, False, True, True, False])
        expected = expected_sum(gradients(params, x, y, v), 0.7, kept=~padding)
        for nan_safe in (False, True):
            f = ask(nan_safe=nan_safe, microbatch_size=size, return_values=True)
            for x_ in (x, x.at[1].set(jnp.nan)):  # whatever is in it
                dW, aux = jax.jit(f)(params, x_, y, v, is_padding_example=padding)
                assert_close(dW, expected, 1e-12)
                assert np.isfinite(aux.values).sum() == (B if x_ is x else B - 1)
        nothing, _ = f(params, x, y, v, is_padding_example=np.ones(B, bool))
        assert not np.any(matrix(jax.tree.map(lambda g: g[None], nothing)))


def test_microbatches_after_the_last_with_an_example_are_not_computed():
    given = numbers()
    f = ask(microbatch_size=2, return_values=True)  # (0, 3), (1, 4), (2, 5)
    _, all_ = f(*given)
    for padded, kept in (
        ((2, 5), [0, 1, 3, 4]),
        ((1, 4), range(B)),
        ((1, 2, 4, 5), [0, 3]),
        ((0, 2, 3, 5), [0, 1, 3, 4]),
    ):
        _, aux = f(*given, is_padding_example=np.isin(np.arange(B), padded))
        assert_close(aux.values, jnp.where(np.isin(np.arange(B), list(kept)), all_.values, 0), 1e-6)


@pytest.mark.parametrize("unit", [False, True])
def test_the_ends_of_the_clip_norm(unit):
    with jax.enable_x64(True):
        given, on = numbers("float64"), jnp.ones(B).at[0].set(0)
        each = jax.tree.map(lambda g: np.asarray(g).copy(), gradients(*given))
        for g in each.values():
            g[0] = 0  # an example without a gradient
        n = np.linalg.norm(matrix(each), axis=1)
        none, direction = 0 * n, np.append(0, 1 / n[1:])

        def asked(C):
            fun = lambda *args: loss(*args[:4]) * jnp.sum(args[4])  # noqa: E731
            return clipped_grad(fun, l2_clip_norm=C, batch_argnums=(1, 2, 4), rescale_to_unit_norm=unit)

        traced = jax.jit(lambda C, *args: asked(C)(*args))
        # not known to be below 0, or NaN, when it is asked for: as 0, and no sum
        ends = {0.0: direction if unit else none, np.inf: none if unit else 1 + none, -1.0: direction if unit else none}
        for C, factor in (ends | {np.nan: none}).items():
            expected = jax.tree.map(lambda g, c=factor: np.tensordot(c, g, axes=1), each)
            assert_close(traced(C, *given, on), expected, 1e-12)
            if C >= 0:
                assert_close(asked(C)(*given, on), expected, 1e-12)


def partly_bad(params, x, y, v):
    """√0 has no gradient: of x[0] = 0 that by W is NaN, that by b is not."""
    return jnp.sum(jnp.sqrt(jnp.sum((params["W"] * x[..., :1, None]) ** 2))) + jnp.mean((params["b"] * v - y) ** 2)


@pytest.mark.parametrize("size", [None, 2])
def test_what_is_not_finite_is_zero_or_stays(size):
    with jax.enable_x64(True):
        params, x, y, v = numbers("float64")
        x = x.at[0].set(0).at[4].set(jnp.inf)
        y = y.at[3].set(jnp.nan)
        fun = lambda *args: partly_bad(args[0], args[1][0], *args[2:])  # noqa: E731
        each = jax.vmap(jax.grad(partly_bad), (None, 0, 0, None))(params, x, y, v)
        bad = ~np.isfinite(matrix(each))
        assert bad.any(axis=1).sum() == 3
        assert not bad.all(axis=1).any()
        cleaned = jax.tree.map(lambda g: np.where(np.isfinite(g), g, 0), each)
        f = partial(ask, fun, microbatch_size=size, return_grad_norms=True)
        dW, aux = jax.jit(f())(params, x, y, v)
        assert_close(dW, expected_sum(cleaned, 0.7), 1e-12)
        assert np.array_equal(np.isfinite(aux.grad_norms), ~bad.any(axis=1))
        dW, _ = jax.jit(f(nan_safe=False))(params, x, y, v)
        good = expected_sum(cleaned, 0.7, kept=~bad.any(axis=1))
        expected = jax.tree.map(lambda g, e: np.where(np.isfinite(e).all(axis=0), g, np.nan), good, each)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), dW, expected)


def test_what_is_not_finite_in_factors():
    """Of a network's own sweep: some features, some adjoints."""
    net = jbp.mlp((3, 4, 2), bias=True)
    params = jbp.init(net, jax.random.key(0))
    x, y = jax.random.normal(jax.random.key(1), (B, 3)), jnp.ones((B, 2))
    _, fg = jbp.per_example(net, "huber")(params, x, y)
    h = fg.h | {"x": fg.h["x"].at[1, 2].set(jnp.nan)}
    dz = fg.dz | {"yhat": fg.dz["yhat"].at[2, 0].set(jnp.inf)}
    for part in ("x", "yhat"):
        fg = jbp.FactoredGradient(h if part == "x" else fg.h, dz, fg.uses, fg.tree, fg.shapes)
        each = jax.tree.map(lambda g: np.where(np.isfinite(g), g, 0), jbp.materialise(fg))
        asked = ask(lambda: None, C=0.1).fun.args[0]
        found = jax.jit(lambda fg, asked=asked: clipped._summed(asked, fg, jbp.norms(fg), jnp.zeros(B, bool)))(fg)
        assert_close(jax.tree.map(np.float64, found), expected_sum(each, 0.1), 1e-6)


def test_a_transform_is_of_one_gradient_and_its_result_is_clipped():
    with jax.enable_x64(True):
        given = numbers("float64")

        def transform(dW):
            return [2 * dW["W"][0], {"b": jnp.sum(dW["b"])}]

        each = gradients(*given)
        for size in (None, 3):
            f = ask(pre_clipping_transform=transform, return_grad_norms=True, microbatch_size=size)
            dW, aux = f(*given)
            assert_close(dW, expected_sum(jax.vmap(transform)(each), 0.7), 1e-12)
            assert_close(aux.grad_norms, np.linalg.norm(matrix(each), axis=1), 1e-12)


def test_the_sum_has_the_dtype_asked_for():
    params, x, y, v = numbers()
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    for size in (None, 2):
        f = partial(ask, microbatch_size=size, return_grad_norms=True)
        dW, aux = f(dtype="float32")(low, x, y, v)
        assert {g.dtype.name for g in jax.tree.leaves(dW)} == {"float32"}
        assert aux.grad_norms.dtype == jnp.bfloat16
        expected = expected_sum(gradients(low, x, y, v), 0.7)
        assert_close(jax.tree.map(np.float64, dW), expected, 0.02)
        assert {g.dtype.name for g in jax.tree.leaves(f()(low, x, y, v)[0])} == {"bfloat16"}
        assert {g.dtype.name for g in jax.tree.leaves(f(dtype=jnp.bfloat16)(params, x, y, v)[0])} == {"bfloat16"}


def test_named_arguments_are_examples_and_constants_stay():
    with jax.enable_x64(True):
        params, x, y, v = numbers("float64")

        def fun(params, x, v, how, *, y):
            return {"mean": 1.0, "sum": 3.0}[how["reduce"]] * loss(params, x, y, v) if how["on"] else 0.0

        how = {"reduce": "sum", "on": True}
        each = jax.tree.map(lambda g: 3 * g, gradients(params, x, y, v))
        for size in (None, 2):
            assert_close(
                ask(fun, batch=1, microbatch_size=size)(params, x, v, how, y=y), expected_sum(each, 0.7), 1e-12
            )


def test_parameters_may_be_one_number():
    f = clipped_grad(lambda p, x: 0.5 * jnp.mean((x - p) ** 2), l2_clip_norm=jnp.inf, return_grad_norms=True)
    dW, aux = f(3.0, np.array([0, 7, -2]))
    assert dW == 4
    assert aux.grad_norms.tolist() == [3, 4, 5]


def test_the_sensitivity_is_what_one_example_can_change():
    f = ask(normalize_by=2.0)
    assert f.l2_norm_bound == f.sensitivity() == f.sensitivity("ADD_OR_REMOVE_ONE") == 0.35
    assert f.sensitivity("REPLACE_ONE") == 0.7
    assert ask(rescale_to_unit_norm=True).sensitivity() == 1
    accounting = pytest.importorskip("dp_accounting")
    assert f.sensitivity(accounting.NeighboringRelation.REPLACE_ONE) == 0.7
    with pytest.raises(ValueError, match="neighboring_relation is 'REPLACE': expected one of ADD_OR_REMOVE_ONE"):
        f.sensitivity("REPLACE")


# ---- against jax_privacy


@pytest.fixture
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they import, and of optax's names
        yield pytest.importorskip("jax_privacy").clipped_grad


def as_trees(found):
    """The gradient, and the fields of what is beside it."""
    return (found[0], found[1]._asdict()) if isinstance(found, tuple) and hasattr(found[-1], "_asdict") else found


def same(theirs, fun, args, tolerance=1e-6, **options):
    close(*(jax.jit(f(fun, **options))(*args) for f in (clipped_grad, theirs)), tolerance)


def close(ours, other, tolerance=1e-6):
    ours, other = as_trees(ours), as_trees(other)
    assert jax.tree.structure(ours) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.max(np.abs(np.nan_to_num(b, posinf=0, neginf=0)), initial=1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


# every three of the nine options, on and off in every way: the rows of Plackett and Burman's plan of 12, and what is opposite
ROW = [True, True, False, True, True, True, False, False, False, True, False]
PLAN = [[False] * 11, *([*ROW[i:], *ROW[:i]] for i in range(11))]


def test_the_plan_has_every_three_options_in_every_way():
    rows = np.array(PLAN + [[not on for on in row] for row in PLAN])
    assert all(len(np.unique(rows[:, three], axis=0)) == 8 for three in map(list, itertools.combinations(range(9), 3)))


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("row", range(12))
def test_same_as_theirs(theirs, row, opposite):
    has_aux, values, norms, keep, tiles, unit, two, key, apart = (on != opposite for on in PLAN[row][:9])
    params, x, y, v = numbers()
    fun = with_aux if has_aux else loss
    if not apart:
        inner = fun
        fun = lambda p, data, v, *key: inner(p, data["x"], data["y"], v, *key)  # noqa: E731
    args = [params, x, y, v] if apart else [params, {"x": x, "y": y}, v]
    options = {
        "argnums": (len(args) - 1, 0) if two else 0,
        "has_aux": has_aux,
        "l2_clip_norm": 0.7,
        "rescale_to_unit_norm": unit,
        "normalize_by": 5.0,
        "batch_argnums": (1, 2) if apart else 1,
        "keep_batch_dim": keep,
        "return_values": values,
        "return_grad_norms": norms,
        "microbatch_size": 2 if tiles else None,
        "prng_argnum": len(args) if key else None,
    }
    same(theirs, fun, [*args, jax.random.key(5)] if key else args, **options)


def test_same_as_theirs_with_padding_nan_and_the_ends_of_the_clip_norm(theirs):
    params, x, y, v = numbers()
    bad = x.at[0].set(0).at[4].set(jnp.inf), y.at[3].set(jnp.nan)
    fun = lambda *args: partly_bad(args[0], args[1][0], *args[2:])  # noqa: E731
    padding = np.array([False, True, True, False, False, True])
    options = {"batch_argnums": (1, 2), "return_values": True, "return_grad_norms": True}
    for size, nan_safe, unit in ((None, True, True), (2, True, False), (2, False, True), (None, False, False)):
        more = options | {"microbatch_size": size, "nan_safe": nan_safe, "rescale_to_unit_norm": unit}

        def call(clipped, C, padding, *args, more=more):
            return clipped(fun, l2_clip_norm=C, **more)(*args, is_padding_example=padding)

        ours, other = (jax.jit(partial(call, f)) for f in (clipped_grad, theirs))
        for C in (0.0, 0.7, np.inf):
            for which in (padding, np.zeros(B, bool)):
                close(ours(C, which, params, *bad, v), other(C, which, params, *bad, v))


def test_same_as_theirs_with_a_dtype_or_a_transform(theirs):
    params, x, y, v = numbers()
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    options = {"l2_clip_norm": 0.7, "batch_argnums": (1, 2), "return_grad_norms": True, "microbatch_size": 3}
    same(theirs, loss, (low, x, y, v), tolerance=0.02, **options)
    same(theirs, loss, (low, x, y, v), tolerance=0.02, dtype="float32", **options)
    same(theirs, loss, (params, x, y, v), tolerance=0.02, dtype=jnp.bfloat16, **options)
    same(theirs, loss, (params, x, y, v), pre_clipping_transform=lambda dW: [dW["b"], 2 * dW["W"][0]], **options)


def test_the_same_attributes_as_theirs(theirs):
    accounting = pytest.importorskip("dp_accounting")
    for options in ({}, {"rescale_to_unit_norm": True}, {"normalize_by": 3.0, "return_values": True}):
        ours, other = (f(loss, l2_clip_norm=0.7, **options) for f in (clipped_grad, theirs))
        assert (ours.l2_norm_bound, ours.has_aux) == (other.l2_norm_bound, other.has_aux)
        for relation in accounting.NeighboringRelation:
            if relation.name in clipped.SENSITIVITY:
                assert ours.sensitivity(relation) == other.sensitivity(relation)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"C": -1.0}, "l2_clip_norm is -1.0: expected one number of at least 0"),
        ({"C": float("nan")}, "l2_clip_norm is nan: expected one number"),
        ({"C": np.ones(3)}, r"l2_clip_norm is \[1. 1. 1.\]: expected one number"),
        ({"normalize_by": 0}, "normalize_by is 0: expected a positive number"),
        ({"argnums": 1}, r"argnums is \(1,\) and batch_argnums \(1, 2\): expected positions from 0, .* none twice"),
        ({"argnums": -1}, r"argnums is \(-1,\) and"),
        ({"argnums": (0, 0)}, r"argnums is \(0, 0\) and"),
        ({"argnums": ()}, r"argnums is \(\) and"),
        ({"batch": ()}, r"batch_argnums \(\): expected positions"),
        ({"prng_argnum": 0}, "prng_argnum is 0: expected a position from 0 that argnums and batch_argnums leave free"),
        ({"prng_argnum": -1}, "prng_argnum is -1: expected a position from 0"),
        ({"microbatch_size": 0}, "microbatch_size is 0: expected an integer of at least 1"),
        ({"dtype": "int32"}, "dtype is 'int32': expected floating point"),
        ({"spmd_axis_name": "data"}, "spmd_axis_name is 'data': expected None; under jit shard the first axis"),
    ],
)
def test_options_that_are_refused(options, says):
    with pytest.raises(ValueError, match=says) as refused:
        ask(**options)
    assert "\n" not in str(refused.value)


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="fun is a dict: expected a function"):
        ask({})


@pytest.mark.parametrize(
    ("options", "change", "says"),
    [
        ({}, lambda p, x, y, v: (p, x), "2 arguments stand by position: expected 3"),
        ({"prng_argnum": 4}, lambda *given: given, "4 arguments stand by position: expected 5"),
        (
            {},
            lambda p, x, y, v: (p, x[1:], y, v),
            r"the batch has shapes args\[1\] \(5, 4\), args\[2\] \(6, 3\): .*one length of the first",
        ),
        ({}, lambda p, x, y, v: (p, {"a": x, "b": 1.0}, y, v), r"args\[1\]\['b'\] \(\)"),
        ({}, lambda p, x, y, v: (p, None, {}, v), "the batch has no arrays: expected arrays"),
        ({"microbatch_size": 4}, lambda *given: given, "microbatch_size is 4, which does not divide 6 examples: pad"),
    ],
)
def test_arguments_that_are_refused(options, change, says):
    with pytest.raises(ValueError, match=says) as refused:
        ask(**options)(*change(*numbers()))
    assert "\n" not in str(refused.value)


def test_a_loss_of_one_example_is_told_of_keep_batch_dim():
    p, x, y = jnp.ones(4), jnp.ones((6, 4)), jnp.arange(6.0)
    for loss in (lambda p, x, y: (jnp.dot(p, x) - y) ** 2, lambda p, x, y: (x @ p - y) ** 2):
        says = "a leading axis of 1.* works without that axis: give keep_batch_dim=False"
        with pytest.raises(ValueError, match=says) as refused:
            clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2))(p, x, y)
        assert "\n" not in str(refused.value)
        clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2), keep_batch_dim=False)(p, x, y)
    with pytest.raises(TypeError, match="dot_general"):  # neither way
        clipped_grad(lambda p, x, y: jnp.dot(p[1:], x), l2_clip_norm=1.0, batch_argnums=(1, 2))(p, x, y)


def test_padding_of_other_examples_is_refused_and_a_constant_needs_no_hash():
    given = numbers()
    with pytest.raises(ValueError, match=r"is_padding_example \(5,\): expected arrays with one length"):
        ask()(*given, is_padding_example=np.zeros(5, bool))
    found = ask(lambda *args: loss(*args[:4]) * len(args[4]), C=np.inf)(*given, {1, 2})
    for once, twice in zip(jax.tree.leaves(ask(C=np.inf)(*given)), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(2 * once, twice, rtol=1e-5)
