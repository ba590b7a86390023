"""A function as a flat program: it gives what the function gives, and every step of it can be seen and replaced."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop import programs
from jaxbackprop.checking.products import products, viewed, views
from jaxbackprop.programs.flat import (
    CALLS,
    PLAIN,
    RULELESS,
    Constant,
    as_function,
    flatten,
    run,
    shape_of,
    variables,
    without_custom_rules,
)

W, X = jnp.linspace(-1, 1, 6).reshape(2, 3), jnp.linspace(0, 2, 8).reshape(4, 2)
TABLE = np.arange(3.0, dtype="float32")


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(x))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(*primals), 7 * tangents[0]  # wrong, so that it shows whether it is asked


@jax.custom_vjp
def square(x):
    return x * x


square.defvjp(lambda x: (x * x, x), lambda x, d: (7 * d,))  # wrong too


@jax.jit
def layer(w, x):
    return jnp.tanh(x @ w)


def looped(w, x):
    def step(carry, row):
        return carry + row @ w, jnp.sum(carry)

    total, sums = jax.lax.scan(step, jnp.zeros(3), x)
    count, halved = jax.lax.while_loop(lambda s: s[1] > 0.1, lambda s: (s[0] + 1, s[1] / 2), (0, jnp.max(total)))
    return jax.lax.cond(count > 2, jnp.sin, jnp.cos, halved) + jnp.sum(sums)


FUNCTIONS = {
    "no calls": (lambda w, x: jnp.sum(x @ w), W, X),
    "jit in jit": (jax.jit(lambda w, x: jnp.sum(jax.jit(lambda z: layer(w, x) + z)(2.0))), W, X),
    "one jaxpr called twice": (lambda w, x: layer(w[:, :2], layer(w[:, :2], x)), W, X),
    "remat": (lambda w, x: jnp.sum(jax.checkpoint(lambda w: jnp.sin(x @ jnp.sin(w)))(w)), W, X),
    "custom_jvp": (lambda w, x: jnp.sum(softplus(x @ w)), W, X),
    "custom_vjp": (lambda w, x: jnp.sum(square(x @ w)), W, X),
    "rules inside calls": (lambda w, x: jax.jit(jax.checkpoint(lambda w: jnp.sum(square(softplus(x @ w)))))(w), W, X),
    "scan, while and cond": (looped, W, X),
    "closed over": (lambda w, x: jax.jit(lambda w: jnp.sum(x @ w * TABLE + jnp.arange(3)))(w), W, X),
    "dict params": (lambda p, x: layer(p["w"], x) + p["b"], {"w": W, "b": jnp.ones(3)}, X),
    "several outputs": (
        lambda w, x, y: {"sum": (x @ w).sum(), "as given": (w, y), "none": None, "known": 1.0},
        W,
        X,
        3,
    ),
    "several results of one step": (lambda w: jax.lax.sort((w, -w), num_keys=1), W),
    "random numbers": (lambda w, key: w + jax.random.normal(key, w.shape), W, jax.random.key(0)),
    "a key closed over": (lambda w: w + jax.random.normal(jax.random.key(1), w.shape), W),
}


def assert_same(given, expected):
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inlined", [(), PLAIN, RULELESS, CALLS], ids=["none", "plain", "ruleless", "all"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_gives_what_the_function_gives(name, inlined):
    function, *args = FUNCTIONS[name]
    program = flatten(function, *args, inlined=inlined)
    assert_same(as_function(program)(*args), function(*args))
    assert_same(jax.jit(as_function(program))(*args), function(*args))
    assert not {step.name for step in program.steps} & set(inlined)


@pytest.mark.parametrize(
    "name", ["jit in jit", "remat", "custom_jvp", "custom_vjp", "rules inside calls", "closed over"]
)
def test_a_program_with_its_rules_has_the_function_s_gradient(name):
    function, w, x = FUNCTIONS[name]
    for inlined in ((), PLAIN, RULELESS):
        again = as_function(flatten(function, w, x, inlined=inlined))
        assert_same(jax.grad(again)(w, x), jax.grad(function)(w, x))
        by_row = jax.vmap(jax.grad(again), (None, 0))(w, jnp.stack([x, 2 * x]))
        np.testing.assert_allclose(by_row[1], jax.grad(function)(w, 2 * x), rtol=1e-5, atol=1e-5)


def test_a_rule_is_kept_or_entered():
    both = lambda x: square(softplus(x))  # noqa: E731
    plain = lambda x: jnp.log1p(jnp.exp(x)) ** 2  # noqa: E731
    assert [step.name for step in flatten(both, 1.0, inlined=RULELESS).steps] == ["custom_jvp_call", "custom_vjp_call"]
    assert [step.name for step in flatten(both, 1.0).steps] == ["exp", "log1p", "mul"]
    assert float(jax.grad(as_function(flatten(both, 1.0, inlined=RULELESS)))(1.0)) == 49
    for entered in (as_function(flatten(both, 1.0)), without_custom_rules(both), without_custom_rules(jax.jit(both))):
        np.testing.assert_allclose(jax.grad(entered)(1.0), jax.grad(plain)(1.0), rtol=1e-6)


def test_what_is_no_call_stays_one_step():
    names = [step.name for step in flatten(looped, W, X).steps]
    assert [names.count(name) for name in ("scan", "while", "cond")] == [1, 1, 1]


def test_a_checkpoint_is_kept_or_entered():
    function, w, x = FUNCTIONS["remat"]
    assert not any("sin" in step.name for step in flatten(function, w, x, inlined=PLAIN).steps)
    assert [step.name for step in flatten(function, w, x, inlined=RULELESS).steps].count("sin") == 2


def test_each_call_has_variables_of_its_own():
    function, w, x = FUNCTIONS["one jaxpr called twice"]
    program = flatten(function, w, x)
    first, second = (step for step in program.steps if step.name == "dot_general")
    assert first.primitive is second.primitive
    assert not set(first.writes) & set(second.writes)
    written = [variable for step in program.steps for variable in step.writes]
    assert len(set(written + list(program.inputs))) == len(written) + len(program.inputs) == len(program.shapes)
    assert [step.number for step in program.steps] == list(range(len(program.steps)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_rule_sees_what_every_step_reads_and_writes(name):
    function, *args = FUNCTIONS[name]
    program = flatten(function, *args)
    values, seen = dict(zip(program.inputs, jax.tree.leaves(args), strict=True)), []

    def rule(step, *operands):
        results = step.bind(*operands)
        for operand, value in zip(step.reads, operands, strict=True):
            assert value is (operand.value if isinstance(operand, Constant) else values[operand])
            assert jnp.shape(value) == shape_of(program, operand)
        for variable, result in zip(step.writes, results, strict=True):
            assert (result.shape, result.dtype) == (program.shapes[variable].shape, program.shapes[variable].dtype)
            values[variable] = result
        seen.append(step)
        return results

    run(program, jax.tree.leaves(args), rule)
    assert tuple(seen) == program.steps


def test_a_rule_may_replace_any_step_s_results():
    program = flatten(lambda x: jax.jit(lambda x: 3 * (x + 1))(x) - 2, 1.0)
    for number, grown in enumerate((30, 10, 10)):  # by what the value grows when this step's result grows by 10
        grow = lambda step, *given: [r + 10 * (step.number == number) for r in step.bind(*given)]  # noqa: B023, E731
        (value,) = run(program, [1.0], grow)
        assert float(value) == 4 + grown


def test_taps_on_products_give_the_gradient():
    """With τ = 0 added to each z = h W: dW = Σ hᵀ dτ over its uses, here two of one jaxpr."""
    w = jnp.array([[1.0, -0.5], [0.25, 2.0]])
    loss = lambda w, x: 0.5 * jnp.sum(layer(w, layer(w, x)) ** 2)  # noqa: E731
    program = flatten(loss, w, X)
    used = {product.step.number: product for product in products(program)}

    def tapped(taps):
        h = {}

        def rule(step, *operands):
            results = step.bind(*operands)
            if step.number not in used:
                return results
            h[step.number] = operands[1 - used[step.number].position]
            return [results[0] + taps[step.number]]

        return run(program, [w, X], rule)[0], h

    taps = {n: jnp.zeros(program.shapes[product.step.writes[0]].shape) for n, product in used.items()}
    dz, h = jax.grad(tapped, has_aux=True)(taps)
    assert len(used) == 2
    np.testing.assert_allclose(sum(h[n].T @ dz[n] for n in used), jax.grad(loss)(w, X), rtol=1e-5)


def test_what_depends_on_a_parameter_and_what_is_needed():
    def function(p, x):
        dead = jnp.exp(p["a"])
        data_alone = jnp.sin(x)
        return jax.jit(lambda a, s: (a * s, dead))(p["a"], data_alone)[0]

    program = flatten(function, {"a": 2.0, "unused": 1.0}, 3.0)
    of = {step.name: step.writes[0] for step in program.steps}
    a, unused, x = program.inputs
    assert program.parameters == 2
    assert program.depends == {a, unused, of["exp"], of["mul"]}
    assert program.live == {a, x, of["sin"], of["mul"]}


def test_an_operand_that_is_known_is_no_variable():
    program = flatten(lambda w: w * TABLE + 1.0, jnp.ones(3))
    assert [len(variables(step)) for step in program.steps] == [1, 1]
    assert [shape_of(program, o) for step in program.steps for o in step.reads if isinstance(o, Constant)] == [(3,), ()]


def test_what_was_closed_over_is_kept_as_it_was():
    table = np.ones(3, "float32")
    program = flatten(lambda w: jnp.sum(w * table), jnp.ones(3))
    table[:] = 5
    assert float(as_function(program)(jnp.ones(3))) == 3


def test_every_step_knows_the_user_s_line():
    def loss(w, x):
        z = x @ w
        return jnp.sum(jax.nn.relu(z))

    program = flatten(loss, W, X)
    first = loss.__code__.co_firstlineno
    for name, line in {"dot_general": first + 1, "max": first + 2, "reduce_sum": first + 2}.items():
        (step,) = (step for step in program.steps if step.name == name)
        assert f"{Path(__file__).name}:{line}:" in step.line, (name, step.line)


def test_where_parameters_are_multiplied():
    w = jnp.arange(6.0).reshape(2, 3)

    def function(p, x):
        return layer(p["a"].T, layer(p["a"], x)) * p["b"] + jnp.exp(p["c"]) * p["c"]

    program = flatten(function, {"a": w, "b": jnp.ones(2), "c": jnp.ones(2)}, X)
    found = products(program)
    assert [(product.view.parameter, product.step.name) for product in found] == [
        *((0, "dot_general"), (0, "dot_general")),
        *((1, "mul"), (2, "mul")),
    ]
    np.testing.assert_array_equal(viewed(found[1].view, w), w.T)
    assert all(view.parameter < program.parameters for view in views(program).values())


def test_a_flat_program_stands_on_nothing_of_ours():
    file = Path(programs.__path__[0]) / "flat.py"
    for node in ast.walk(ast.parse(file.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.module.startswith("jaxbackprop")), node.module
