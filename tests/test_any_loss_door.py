"""What `factored`, `explain` and `check_factored` refuse, each in one line; what they say of a loss; a wrong rule is found."""

import json
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp
from jaxbackprop.programs import linear

P, X = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}, jnp.arange(20.0).reshape(5, 4) / 10
W = P["w"]
HERE = Path(__file__).name


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]))


def gives(value):
    """A loss whose value is made of the right one."""
    return lambda params, x: value(loss(params, x))


def closes_over(params, x):
    return jnp.sum(x @ W + params["b"])


def two(params, x, y):
    return y * loss(params, x)


NOT_A_NUMBER = {
    "vector": (lambda params, x: x @ params["w"], {}, r"gives shape \(3,\) and dtype float..: .*such as a mean"),
    "integer": (gives(lambda v: v.astype("int32")), {}, r"gives shape \(\) and dtype int32: expected one floating"),
    "complex": (gives(lambda v: v + 1j), {}, r"dtype complex\d+: expected one floating"),
    "pair": (gives(lambda v: (v, 1.0)), {}, r"gives tuple: .*has_aux=True for \(number, aux\)"),
    "nothing": (gives(lambda v: None), {}, "gives NoneType: expected one floating"),
    "no pair": (loss, {"has_aux": True}, r"returns no pair \(number, aux\), and has_aux is True"),
    "three": (gives(lambda v: (v, 1, 2)), {"has_aux": True}, r"returns no pair \(number, aux\)"),
    "a list": (gives(lambda v: [v, 1]), {"has_aux": True}, r"returns no pair \(number, aux\)"),
    "vector and aux": (lambda params, x: (x, 1), {"has_aux": True}, r"gives shape \(4,\)"),
}


@pytest.mark.parametrize("name", NOT_A_NUMBER)
def test_a_loss_that_is_no_number_of_one_example(name):
    function, options, message = NOT_A_NUMBER[name]
    for call in (
        lambda: jbp.factored(function, **options)(P, X),
        lambda: jbp.explain(function, **options)(P, X[0]),
        lambda: jbp.check_factored(function, P, X, **options),
        lambda: jax.jit(jbp.factored(function, **options))(P, X),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


SUM = lambda params, x: jnp.sum(x)  # noqa: E731
PARAMETERS = {
    "integer": (loss, P | {"n": jnp.arange(3)}, TypeError, r"params.*\['n'\] has dtype int32: .*None in in_axes"),
    "complex": (loss, P | {"n": jnp.ones(2, "complex64")}, TypeError, r"params.*\['n'\] has dtype complex64"),
    "none": (SUM, {}, ValueError, "the parameters hold no arrays: nothing to differentiate by"),
    "nested none": (SUM, {"a": [], "b": None}, ValueError, "the parameters hold no arrays"),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_cannot_be_trained(name):
    function, params, kind, message = PARAMETERS[name]
    for call in (
        lambda: jbp.factored(function)(params, X),
        lambda: jbp.explain(function)(params, X[0]),
        lambda: jbp.check_factored(function, params, X),
    ):
        with pytest.raises(kind, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", [lambda: jbp.factored(closes_over)(P, X), lambda: jbp.explain(closes_over)(P, X[0])])
def test_a_parameter_that_is_closed_over(call):
    with pytest.raises(ValueError, match="closes over parameter 'w': it has to come in as an argument"):
        call()


def test_what_is_closed_over_and_no_parameter_is_noted():
    table = jnp.ones((2, 3))
    found = jbp.explain(lambda params, x: jnp.sum(table @ params["b"]) * x[0])(P, X[0])
    assert found.notes == ("closed over, without a gradient: float32 (2, 3)",)
    assert found.notes[0] in str(found)
    assert jbp.explain(loss)(P, X[0]).notes == ()


BATCHES = {
    "a number": (loss, (1.0,), {}, r"shape \(\), and its examples should lie along axis 0: give a batch"),
    "lengths": (two, (X, jnp.ones(4)), {}, r"argument \[1\] has 4 examples, \[0\] has 5: .*None in in_axes"),
    "empty": (loss, (X[:0],), {}, "no examples: give at least one"),
    "none": (loss, (X[0],), {"in_axes": None}, "no argument has examples: give a batch"),
    "too far": (loss, (X,), {"in_axes": 2}, r"shape \(5, 4\), .*along axis 2: give a batch"),
    "too far back": (loss, (X,), {"in_axes": -3}, "along axis -3"),
    "no axis": (loss, (X,), {"in_axes": "x"}, "along axis 'x'"),
    "two axes": (loss, (X,), {"in_axes": (0, 0)}, r"in_axes is \(0, 0\): .* each of the 1 arguments beside"),
    "one axis": (two, (X, X[:, 0]), {"in_axes": (0,)}, r"in_axes is \(0,\): .* each of the 2 arguments beside"),
    "nested": (loss, (X,), {"in_axes": ({"x": 0},)}, "in_axes is .*expected one for all, or a tuple"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_that_is_none(name):
    function, batch, options, message = BATCHES[name]
    for call in (
        lambda: jbp.factored(function, **options)(P, *batch),
        lambda: jbp.check_factored(function, P, *batch, **options),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("argnums", [2, -3, (0, 2), "w", 0.0, None, (0, 0), (0, -2)])
def test_argnums_that_are_none(argnums):
    for call in (lambda: jbp.factored(loss, argnums)(P, X), lambda: jbp.explain(loss, argnums)(P, X[0])):
        with pytest.raises(ValueError, match=f"argnums is {re.escape(repr(argnums))}, of 2 arguments: expected"):
            call()


@pytest.mark.parametrize(
    ("weight", "kind", "message"),
    [
        (jnp.ones(4), ValueError, r"weight has shape \(4,\), expected \(5,\)"),
        (jnp.ones((5, 1)), ValueError, r"weight has shape \(5, 1\), expected \(5,\)"),
        (jnp.ones(()), ValueError, r"weight has shape \(\), expected \(5,\)"),
        ([1.0] * 5, TypeError, "weight is a list: expected an array"),
        (jnp.ones(5, "complex64"), ValueError, "weight has dtype complex64: expected real numbers"),
    ],
)
def test_weights_that_are_none(weight, kind, message):
    with pytest.raises(kind, match=message):
        jbp.factored(loss)(P, X, weight=weight)


@pytest.mark.parametrize("door", [jbp.factored, lambda f: jbp.explain(f)(P, X), lambda f: jbp.check_factored(f, P, X)])
def test_a_loss_that_is_no_function(door):
    with pytest.raises(TypeError, match=r"loss is a dict: expected a function \(params, \*example\) → number"):
        door(P)


def inner_cumsum(params, x):
    return jnp.sum(x @ jnp.cumsum(params["w"], 0) + params["b"])


def test_a_fallback_is_said_where_it_is_asked_for():
    line = inner_cumsum.__code__.co_firstlineno + 1
    message = rf"parameter 'w' enters cumsum at .*{HERE}:{line}.*\(inner_cumsum\): its gradients are formed there"
    with pytest.raises(ValueError, match=message):
        jbp.factored(inner_cumsum, on_fallback="error")(P, X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, fg = jbp.factored(inner_cumsum, on_fallback="warn")(P, X)
    assert [bool(re.match(message, str(warning.message))) for warning in caught] == [True]  # once, and not of b
    G = jax.vmap(jax.grad(inner_cumsum), (None, 0))(P, X)["w"]
    assert jnp.allclose(jbp.materialise(fg)["w"], G)
    jbp.factored(inner_cumsum)(P, X)  # by default nothing is said: warnings are errors here
    jbp.factored(loss, on_fallback="error")(P, X)  # a bias that is added is no fallback
    for wrong in ("quiet", None, True):
        with pytest.raises(ValueError, match=f"on_fallback is {wrong!r}: expected one of local, warn, error"):
            jbp.factored(loss, on_fallback=wrong)


class OwnError(Exception):
    """One that the user raises."""


def raises(params, x):
    raise OwnError("mine")


NOTE = r"calls the loss with ONE example, of shapes \(4,\), as jax.vmap\(jax.grad\(loss\)\) does"


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (raises, OwnError, "mine"),
        (lambda params, x: params["no"], KeyError, "no"),
        (lambda params, x: x @ jnp.ones((7, 2)), TypeError, "contracting"),
        (lambda params, x: jnp.sum(x[:, 0]), IndexError, "indices"),
    ],
)
def test_an_error_of_the_user_stays_what_it_is_with_a_note(function, kind, message):
    for call in (
        lambda: jbp.factored(function)(P, X),
        lambda: jbp.explain(function)(P, X[0]),
        lambda: jbp.check_factored(function, P, X),
    ):
        with pytest.raises(kind, match=message) as error:
            call()
        assert type(error.value) is kind
        assert len([note for note in error.value.__notes__ if re.search(NOTE, note)]) == 1


def test_the_note_does_not_hide_the_error():
    with pytest.raises(OwnError) as error:
        jbp.explain(raises)(P, 1.0)
    assert any("of shapes ()," in note for note in error.value.__notes__)


# ---- explain


def model(params, ids, y):
    h = params["table"][ids]
    h = jnp.tanh(h @ params["layer"]["w"] + params["layer"]["b"])
    h = h @ jnp.flip(jnp.cumsum(params["odd"], axis=0))
    return jnp.sum((h @ params["table"].T - y) ** 2)


def of_model():
    line = model.__code__.co_firstlineno
    shapes = {
        "table": (50, 8), "layer": {"w": (8, 6), "b": (6,)}, "odd": (6, 8), "unused": (2,),
    }  # fmt: skip
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, "float32"), shapes, is_leaf=lambda s: isinstance(s, tuple))
    example = jax.ShapeDtypeStruct((3,), "int32"), jax.ShapeDtypeStruct((3, 50), "float32")
    return jbp.explain(model)(params, *example), lambda after: f"{HERE}:{line + after} (model)"


def test_explain_says_where_each_parameter_enters():
    found, at = of_model()
    table, none = ("table", (50, 8)), ("gradient", 6, 12, 6)
    assert [tuple(row) for row in found.rows] == [
        ("layer/b", (6,), "whole", "", *none, at(2)),
        # of 3 positions 3 (8 + 6) numbers < 48; 2 · 9 (8 + 6 + 1) flops < 2 · 3 · 48 + 2 · 48
        ("layer/w", (8, 6), "outer", "t=3 n=6 m=8", "factors", 42, 270, 288, at(2)),
        ("odd", (6, 8), "formed (cumsum)", "", "gradient", 48, 96, 48, at(3)),
        (*table, "rows", "t=3 rows=50 n=8", "factors", 27, 162, 24, at(1)),
        (*table, "outer", "t=3 n=50 m=8", "factors", 174, 1062, 2400, at(4)),
        ("unused", (2,), "not used", "", "-", 0, 0, 0, ""),
    ]
    assert (found.gradient, found.kept, found.bytes_each) == (6 + 48 + 48 + 400 + 2, 6 + 42 + 48 + 27 + 174, 4)


def test_explain_prints_an_aligned_table():
    found, at = of_model()
    head, *rows, last = str(found).splitlines()
    assert head.split() == ["parameter", "shape", "use", "sizes", "kept", "bytes", "norm", "sum", "where"]
    assert all(row[head.index("use") - 1] == " " and row[head.index("use")] != " " for row in rows)
    assert all(row.endswith(at(i)) for row, i in zip(rows[:-1], (2, 2, 3, 1, 4), strict=True))
    assert rows[3].split()[:6] == ["table", "50×8", "rows", "t=3", "rows=50", "n=8"]
    assert rows[3].split()[6:10] == ["factors", "108", "162", "24"]
    assert last == (
        "an example's factors: 1.19kB; its gradient: 2.02kB; flops of its norm 1.6k, of its part of the sum 2.77k"
    )


def test_explain_gives_plain_values():
    found, _ = of_model()
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert [tuple(row.values()) for row in found.to_dict()["rows"]] == [
        (row.parameter, list(row.shape), *row[2:]) for row in found.rows
    ]


def test_what_explain_counts_is_what_is_kept():
    """The numbers of the factors themselves, where none are shared, and no gradient is formed."""
    params = {"w": jnp.ones((20, 30)), "e": jnp.ones((40, 20))}
    function = lambda params, ids: jnp.sum(jnp.sin(params["e"][ids] @ params["w"]))  # noqa: E731
    ids = jnp.arange(6).reshape(2, 3)
    _, fg = jbp.factored(function)(params, ids)
    numbers = sum(a.size // 2 for a in jax.tree.leaves((fg.h, fg.dz)))
    assert jbp.explain(function)(params, ids[0]).kept == numbers == 3 * (20 + 30) + 3 * (20 + 1)


# ---- check_factored


def test_what_is_right_agrees():
    found = jbp.check_factored(loss, P, X)
    assert found.ok
    assert [row.parameter for row in found.rows] == ["b", "w"]
    assert (found.precision, found.examples, found.tolerance) == ("float64", 5, 1e-10)
    assert found.norm_error < 1e-14
    assert str(found).startswith("factored: agrees with jax.vmap(jax.grad); 5 norms within ")
    assert len(str(found).splitlines()) == 4
    found.raise_if_wrong()
    assert jbp.check_factored(lambda params, x: (loss(params, x), x), P, X.T, in_axes=1, has_aux=True).ok


def test_a_gradient_that_is_0_is_not_compared_by_its_rounding():
    """A key's bias moves all scores of a row alike, which a softmax does not see."""

    def attention(params, x, y):
        q, k = x @ params["q"], x @ params["k"] + params["key bias"]
        return jnp.sum((jax.nn.softmax(q @ k.T) @ (x @ params["v"]) - y) ** 2)

    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(4, 4)).astype("float32") for name in "qkv"} | {"key bias": np.ones(4, "float32")}
    x, y = (rng.normal(size=(5, 6, 4)).astype("float32") for _ in range(2))
    found = jbp.check_factored(attention, params, x, y)
    assert found.ok, str(found)


def sabotaged(monkeypatch, name, times):
    """The rule of a primitive, with what its tap adds multiplied."""
    right = linear._RULES[name]

    def wrong(*args):
        rule = right(*args)
        return rule and rule._replace(tap=lambda tau, *operands: times * rule.tap(tau, *operands))

    monkeypatch.setitem(linear._RULES, name, wrong)


def looked_up(params, x):
    return jnp.sum(jnp.sin(x[0] * params["e"][jnp.array([0, 2, 0])] @ params["w"].T))


@pytest.mark.parametrize(("rule", "wrong"), [("dot_general", "w"), ("gather", "e")])
@pytest.mark.parametrize("times", [0.5, 1 + 1e-6])
def test_a_rule_that_is_wrong_is_found_with_its_parameter(monkeypatch, rule, wrong, times):
    params, x = {"e": jnp.ones((4, 3)), "w": jnp.ones((2, 3))}, X + 1
    assert jbp.check_factored(looked_up, params, x).ok
    sabotaged(monkeypatch, rule, times)
    found = jbp.check_factored(looked_up, params, x)
    assert not found.ok
    assert [row.parameter for row in found.rows if not row.ok] == [wrong]
    assert str(found).startswith(f"factored: WRONG for {wrong}, the norms; ")
    with pytest.raises(AssertionError) as error:
        found.raise_if_wrong()
    assert str(error.value) == str(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_loss_that_computes_in_less_decides_the_tolerance(monkeypatch, dtype):
    def narrow(params, x):
        return jnp.sum(jnp.tanh(x.astype(dtype) @ params["w"].astype(dtype))).astype("float32")

    found = jbp.check_factored(narrow, P, X)
    assert found.ok
    assert found.precision == dtype
    assert found.tolerance == max(1e-10, 64 * float(jnp.finfo(dtype).eps))
    sabotaged(monkeypatch, "dot_general", 0.25)
    assert not jbp.check_factored(narrow, P, X).ok


def test_what_is_no_number_is_wrong(monkeypatch):
    sabotaged(monkeypatch, "dot_general", jnp.nan)
    found = jbp.check_factored(loss, P, X)
    assert not found.ok
    assert found.norm_error == float("inf")


def test_what_is_kept_is_what_clip_keeps():
    """A use beside the factors is kept too; with one position nothing is formed; with many all is, once."""

    def loss(p, x):
        products = (x @ p["many"], x[:2] @ p["few"], x[0] @ p["one"])
        return sum(jnp.sum(jnp.tanh(z)) for z in products) + jnp.sum(p["few"] ** 2)

    params = {"many": jnp.ones((8, 2)), "few": jnp.ones((8, 9)), "one": jnp.ones((8, 1))}
    x = jnp.ones((3, 20, 8))
    found = jbp.explain(loss)(params, x[0])
    clipped = jbp.clip(jbp.factored(loss)(params, x)[1], 1.0)
    for leaf, name in enumerate(sorted(params)):
        uses = [use for use in clipped.uses if use.leaf == leaf]
        arrays = [a for use in uses for a in ((clipped.h[use.h],) if use.h else ()) + (clipped.dz[use.dz],)]
        rows = [row for row in found.rows if row.parameter == name]
        assert sum(row.numbers for row in rows) == sum(a.size for a in arrays) // 3, name
        assert ("factors" in {row.kept for row in rows}) == any(use.h for use in uses), name
