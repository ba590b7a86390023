"""Right gradients that a check could take for wrong ones, and arguments of every kind that people have."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp

A = jnp.array([[2.0, 1.0], [1.0, 3.0]])

# What a linear solver is given is no constant of the derivative


SOLVES = {
    "inv": jnp.linalg.inv,
    "solve": lambda A: jnp.linalg.solve(A, jnp.array([1.0, 2.0])),
    "matrix_power": lambda A: jnp.linalg.matrix_power(A, -1),
    "cg": lambda A: jax.scipy.sparse.linalg.cg(lambda x: A @ x, jnp.array([1.0, 2.0]))[0],
    "custom_linear_solve": lambda A: jax.lax.custom_linear_solve(
        lambda x: A @ x, jnp.array([1.0, 2.0]), lambda _, b: jnp.linalg.inv(A) @ b, symmetric=True
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_what_solves_a_linear_system(name):
    value = lambda A: jnp.sum(SOLVES[name](A) ** 2)  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), A)
    assert report.ok, str(report)
    assert report.rows[0].error_differences < 1e-6
    assert not jbp.check_gradient(value, lambda A: jax.grad(value)(A).at[0, 1].mul(1.001), A).ok


@pytest.mark.parametrize("right", [True, False])
def test_the_rule_of_a_solve(right):
    @jax.custom_vjp
    def solve(A, b):
        return jnp.linalg.solve(A, b)

    def backward(kept, dx):
        A, x = kept
        db = jnp.linalg.solve(A.T if right else A, dx)
        return -jnp.outer(db, x), db

    solve.defvjp(lambda A, b: (solve(A, b), (A, solve(A, b))), backward)
    report = jbp.check_vjp(solve, A.at[0, 1].set(2.0), jnp.array([1.0, 2.0]))
    assert report.ok == right, str(report)


def test_a_stop_gradient_beside_a_solve_is_still_held():
    value = lambda A: jnp.sum(jnp.linalg.inv(A) @ jax.lax.stop_gradient(A[0]))  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), A)
    assert report.ok, str(report)


# Functions whose own derivative cancels, or that are noisier than their size says

SPECIAL = {
    "factorial": (jax.scipy.special.factorial, (0.27, 0.61, 0.35, 0.64)),
    "comb": (lambda n: jax.scipy.special.comb(jnp.array([0.305, 0.553, 0.868, 0.528]), n), (0.781, 0.786, 0.42, 0.6)),
    "lgamma": (jax.lax.lgamma, (1.4616, 1.4617, 2.0, 1.0)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_beside_their_zeros(name):
    function, at = SPECIAL[name]
    value = lambda w: jnp.sum(jnp.array([0.7, 1.1, 0.9, 1.3]) * function(w))  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), jnp.array(at))
    assert report.ok, str(report)
    assert not jbp.check_gradient(value, lambda w: jax.grad(value)(w) * (1 + 1e-4), jnp.array(at)).ok


@pytest.mark.parametrize("scale", [100, 1000])
def test_a_saturated_softmax_is_no_custom_rule(scale):
    value = lambda z: jnp.sum(jax.nn.softmax(z) * jnp.arange(6.0))  # noqa: E731
    report = jbp.check_gradient(value, jax.grad(value), scale * jax.random.normal(jax.random.key(0), (4, 6)))
    assert report.ok, str(report)
    assert not any("jax.jvp" in note for note in report.notes)
    assert report.rows[0].error_differences <= 1


def test_a_gradient_by_hand_that_is_one_of_symmetric_matrices():
    """Of log det A by its Cholesky factor, A⁻¹ is the gradient on symmetric matrices, and on no others."""
    value = lambda A: 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(A))))  # noqa: E731
    report = jbp.check_gradient(value, jnp.linalg.inv, A)
    assert report.ok, str(report)
    assert not jbp.check_gradient(value, lambda A: jnp.linalg.inv(A) * 1.001, A).ok


def test_of_cholesky_it_is_said_what_its_rule_assumes():
    at = A.at[0, 1].add(0.2)
    for root in (jax.scipy.linalg.cholesky, jnp.linalg.cholesky):
        value = lambda A, root=root: jnp.sum(root(A) ** 3)  # noqa: E731
        report = jbp.check_gradient(value, jax.grad(value), at)
        with jax.enable_x64(True):  # in JAX 0.10 the first one's rule wants a symmetric matrix, in 0.12 neither's does
            wide, entries = jnp.asarray(at, "float64"), 1e-6 * jnp.eye(4, dtype="float64").reshape(4, 2, 2)
            slopes = jnp.array([(value(wide + e) - value(wide - e)) / 2e-6 for e in entries])
            right = bool(jnp.allclose(jax.grad(value)(wide).ravel(), slopes, rtol=1e-6, atol=1e-6))
        assert report.ok == right
        assert right or root is jax.scipy.linalg.cholesky
        assert jbp.check_gradient(value, jax.grad(value), A).ok  # moved, it stays symmetric
        assert right or "symmetric matrices: give it (A + Aᵀ) / 2" in report.rows[0].problem


# Arrays that functions find by themselves

BATCH = {"x": jnp.linspace(-1, 1, 25, dtype=jnp.float32).reshape(1, 1, 5, 5), "y": jnp.ones((1, 2, 5, 5))}


def convolved(w):
    return jax.lax.conv(BATCH["x"], w, (1, 1), "SAME")


def test_arrays_of_float32_beside_float64():
    """`jax.lax` wants one dtype: global arrays, those of a closure and of a function that is called follow."""
    at, weights = jnp.full((2, 1, 3, 3), 0.1), jnp.full((1, 2, 5, 5), 1.5, jnp.float32)

    def value(w):
        return jnp.sum(jax.lax.mul(weights, jax.lax.sub(convolved(w), BATCH["y"]) ** 2))

    for gradient in (jax.grad(value), jax.jit(jax.grad(value))):
        report = jbp.check_gradient(value, gradient, at)
        assert report.ok, str(report)
        assert report.rows[0].error_float64 < 1e-14
        assert not any("float64" in note for note in report.notes)
    assert not jbp.check_gradient(jax.jit(value), lambda w: 2 * jax.grad(value)(w), at).ok
    assert BATCH["x"].dtype == weights.dtype == value(at).dtype == jnp.float32


def test_what_computes_in_float32_whatever_it_is_given_is_said():
    value = lambda w: jnp.sum(jax.lax.mul(jax.lax.convert_element_type(w, jnp.float32), w))  # noqa: E731
    with pytest.raises(ValueError, match=r"value does not run in float64 .* same dtypes"):
        jbp.check_gradient(value, jax.grad(value), jnp.ones(3))


# Arguments of every kind


def test_a_list_for_a_tuple_and_a_gradient_with_its_value():
    pair = (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    value = lambda p: jnp.sum(p[0] ** 2 * p[1])  # noqa: E731
    assert jbp.check_gradient(value, lambda p: [2 * p[0] * p[1], p[0] ** 2], pair).ok
    assert not jbp.check_gradient(value, lambda p: [p[0] ** 2, 2 * p[0] * p[1]], pair).ok
    for params in (pair, {"a": pair}):
        of = lambda p: value(p["a"] if isinstance(p, dict) else p)  # noqa: E731
        report = jbp.check_gradient(of, jax.value_and_grad(of), params)
        assert report.ok, str(report)
        assert "returns (value, gradient): the second is checked" in str(report)


def test_modules_are_their_arrays():
    eqx, nnx = pytest.importorskip("equinox"), pytest.importorskip("flax.nnx")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), "float32")
    value = lambda module, x: jnp.mean(jax.vmap(module)(x) ** 2)  # noqa: E731
    for module, grad in (
        (eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), eqx.filter_grad),
        (nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.grad),
    ):
        report = jbp.check_gradient(value, grad(value), module, x)
        assert report.ok, str(report)
        assert not jbp.check_gradient(
            value, lambda m, x, g=grad: jax.tree.map(jnp.negative, g(value)(m, x)), module, x
        ).ok


def test_what_has_no_gradient_is_passed_on():
    params = {"w": jnp.array([2.0, 3.0]), "n": 3}
    value = lambda p, how, g: jnp.sum(g(p["w"]) ** p["n"]) if how == "sum" else jnp.nan  # noqa: E731
    gradient = lambda p, how, g: {"w": 3 * g(p["w"]) ** 2 * jnp.cos(p["w"])}  # noqa: E731
    report = jbp.check_gradient(value, gradient, params, "sum", jnp.sin)
    assert report.ok, str(report)
    assert "not checked: ['n']" in str(report)
    assert not jbp.check_gradient(value, lambda *a: {"w": gradient(*a)["w"] / 3}, params, "sum", jnp.sin).ok


def test_complex_parameters_in_both_parts():
    z = jnp.array([1 + 2j, 3 - 1j])
    value = lambda z: jnp.sum(jnp.abs(z) ** 2 + jnp.real(z**3))  # noqa: E731
    right = lambda z: 2 * jnp.conj(z) + 3 * z**2  # noqa: E731, ∂/∂x − i ∂/∂y
    report = jbp.check_gradient(value, right, z)
    assert report.ok, str(report)
    report = jbp.check_gradient(value, lambda z: jnp.conj(right(z)), z)
    assert [(row.parameter, row.ok) for row in report.rows] == [("params.real", True), ("params.imag", False)]
    f = lambda z: (jnp.real(z**2), jnp.imag(z))  # noqa: E731
    assert jbp.check_vjp(f, z, reference=f).ok


def test_arguments_that_a_rule_does_not_differentiate():
    def power(right):
        rule = jax.custom_vjp(lambda n, g, x: g(x) ** n, nondiff_argnums=(0, 1))

        def backward(n, g, x, d):
            y, back = jax.vjp(g, x)
            return back((n if right else n - 1) * y ** (n - 1) * d)

        rule.defvjp(lambda n, g, x: (g(x) ** n, x), backward)
        return rule

    x = jnp.array([1.0, 2.0])
    report = jbp.check_vjp(power(True), 3, jnp.sin, x)
    assert report.ok, str(report)
    assert [(row.parameter, row.ok) for row in jbp.check_vjp(power(False), 3, jnp.sin, x).rows] == [("x", False)]


@pytest.mark.parametrize("eps", [1e-6, jnp.float32(1e-6), np.full(3, 1e-6), (1e-6,), lambda: 1e-6])
def test_what_is_not_differentiated_is_held_fixed_whatever_it_is(eps):
    number = lambda eps: eps() if callable(eps) else eps[0] if isinstance(eps, tuple) else eps  # noqa: E731

    def plain(x, eps):
        return x / jnp.sqrt(jnp.mean(x**2) + number(eps))

    def back(factor):
        rule = jax.custom_vjp(plain, nondiff_argnums=(1,))
        of = lambda eps, x, d: jax.vjp(lambda x: plain(x, eps), x)[1](factor * d)  # noqa: E731
        rule.defvjp(lambda x, eps: (plain(x, eps), x), of)
        return rule

    x = jnp.array([1.0, 2.0, -0.5])
    report = jbp.check_vjp(back(1), x, eps)
    assert report.ok, str(report)
    assert [row.parameter for row in report.rows] == ["x"]
    assert jbp.check_vjp(jax.jit(back(1), static_argnums=1), x, 1e-6).ok
    assert not jbp.check_vjp(back(2), x, eps).ok
    assert not jbp.check_vjp(lambda *both: back(2)(*both), x, eps).ok


def test_strict_promotion_of_dtypes_is_no_mistake_of_the_users():
    value = lambda w: jnp.sum(jax.nn.relu(w) * jax.nn.sigmoid(w))  # noqa: E731
    with jax.numpy_dtype_promotion("strict"):
        assert jbp.check_gradient(value, jax.grad(value), jnp.array([0.0, 1.0, -2.0])).ok
        assert not jbp.check_gradient(value, lambda w: -jax.grad(value)(w), jnp.array([0.0, 1.0, -2.0])).ok


# What cancels


@pytest.mark.parametrize("seed", range(4))
def test_a_saturated_softmax(seed):
    rng = np.random.default_rng(seed)
    z, c = jnp.asarray(100 * rng.normal(size=8), "float32"), jnp.arange(8.0)

    def gradient(z, wrong=0.0):
        p = jax.nn.softmax(z)
        return p * (c - (1 + wrong) * jnp.sum(p * c))

    value = lambda z: jnp.sum(jax.nn.softmax(z) * c)  # noqa: E731
    report = jbp.check_gradient(value, gradient, z)
    assert report.ok, str(report)
    assert not jbp.check_gradient(value, lambda z: gradient(z, 1e-6), z).ok


@pytest.mark.parametrize("seed", range(2))
def test_a_saturated_attention(seed):
    rng = np.random.default_rng(seed)
    p = {name: jnp.asarray(s * rng.normal(size=(5, 4)), "float32") for name, s in (("q", 10), ("k", 10), ("v", 1))}

    def gradient(p, factor=1.0):
        s = p["q"] @ p["k"].T
        a = jnp.exp(s - s.max(1, keepdims=True))
        a /= a.sum(1, keepdims=True)
        da = jnp.ones_like(p["v"]) @ p["v"].T
        ds = a * (da - jnp.sum(da * a, axis=1, keepdims=True)) * factor
        return {"q": ds @ p["k"], "k": ds.T @ p["q"], "v": a.T @ jnp.ones_like(p["v"])}

    value = lambda p: jnp.sum(jax.nn.softmax(p["q"] @ p["k"].T) @ p["v"])  # noqa: E731
    report = jbp.check_gradient(value, gradient, p)
    assert report.ok, str(report)
    wrong = jbp.check_gradient(value, lambda p: gradient(p, 1.001), p)
    assert [row.parameter for row in wrong.rows if not row.ok] == ["['k']", "['q']"]


def test_a_textbook_derivative_that_cancels_near_0():
    value = lambda x: jnp.sum(jnp.sinc(x))  # noqa: E731
    gradient = lambda x: (jnp.cos(jnp.pi * x) - jnp.sinc(x)) / x  # noqa: E731
    x = jnp.array([1e-3, 2e-3, -1e-2])
    report = jbp.check_gradient(value, gradient, x)
    assert report.ok, str(report)
    assert not jbp.check_gradient(value, lambda x: 1.0001 * gradient(x), x).ok


# Loops

SOLVER = """
import jax, jax.numpy as jnp, jaxbackprop as jbp


@jax.custom_vjp
def settled(a):  # x = a cos x, which no iteration finds where |a| is large
    def step(state):
        return a * jnp.cos(state[0]), state[0]

    return jax.lax.while_loop(lambda state: jnp.abs(state[0] - state[1]) > 1e-6, step, (a, a + 10))[0]


def rule(factor):
    def backward(kept, d):
        a, x = kept
        return (factor * d * jnp.cos(x) / (1 + a * jnp.sin(x)),)

    settled.defvjp(lambda a: (settled(a), (a, settled(a))), backward)
    return jbp.check_vjp(settled, jnp.float32(0.9))


report = rule(1.0)
print(report.ok, rule(1.01).ok, *report.notes, sep="\\n")
"""


def test_a_loop_that_never_settles_at_drawn_points_ends():
    done = subprocess.run([sys.executable, "-c", SOLVER], capture_output=True, text=True, timeout=120, check=False)
    right, wrong, *notes = done.stdout.splitlines()
    assert (right, wrong) == ("True", "False"), done.stderr
    assert any("has not settled after 10000 steps: they are left out" in note for note in notes)


def test_a_loop_that_counts_is_as_long_as_it_is():
    def value(w):
        return jax.lax.fori_loop(0, jnp.int32(20_000), lambda _, x: x * (1 - 1e-4) + 1e-4 * jnp.sum(w**2), 0.0)

    with jax.enable_x64(True):
        w = jnp.array([1.0, 2.0])
        right = lambda w: 2 * w * (1 - (1 - 1e-4) ** 20_000)  # noqa: E731
        assert jbp.check_gradient(value, right, w).ok
        assert not jbp.check_gradient(value, lambda w: 1.001 * right(w), w).ok


def test_a_kernel_without_a_reference_gets_one_line_with_the_cure():
    pl = pytest.importorskip("jax.experimental.pallas")

    def kernel(x, out):
        out[...] = x[...] ** 2

    @jax.custom_vjp
    def square(x):
        return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)

    square.defvjp(lambda x: (square(x), x), lambda x, d: (2 * x * d,))
    with pytest.raises(ValueError, match="give check_vjp a reference, the same in plain JAX"):
        jbp.check_vjp(square, jnp.ones(4))
    assert jbp.check_vjp(square, jnp.ones(4), reference=lambda x: x**2).ok
