"""A gradient check for anyone's gradient: beside `jax.grad`, and, independently, beside differences in float64.

What is compared, parameter by parameter, because a wrong skip term, say, corrupts one weight matrix only and would drown in one
norm over all of them:

    jax.grad            in float64, at the given parameters and at drawn ones that show every decision on both sides
                        (`points.py`); and, for the given dtype, what the gradient under test gives there
    finite differences  of the value in float64, along entries and random directions, clear of kinks
                        (`differences.py`)

What may differ is what arithmetic explains, for a parameter whose gradient has the largest entry |R|, in a dtype of precision
eps, when the longest sum has n terms:

    |G − R|  ≤  min(16 √n eps, 5%) |R|  +  16 ρ eps,        ρ eps = how far rounding moves R itself

ρ is measured, as a gradient that cancels to almost nothing has lost more than its own size tells: it is how far `jax.grad` in
float32 is from `jax.grad` in float64, in units of float32's eps. (For the given dtype also how far a change of the parameters
by a few eps moves it: a ReLU near its kink may take the other side.)

At a kink any choice of a side is right: there a gradient may lie anywhere between those that JAX gives when each tie is broken
upwards or downwards. Where the two differ by more, differences decide: where they confirm the gradient under test, `jax.grad` of
the value is what is wrong (a custom rule, say), and the report says so. What `stop_gradient` is given is held constant for
differences, as it is for the derivative. What stays wrong is compared with the familiar mistakes (`diagnosis.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.comparison import align, compare
from jaxbackprop.checking.diagnosis import Diagnosis
from jaxbackprop.checking.leaves import names
from jaxbackprop.checking.reference import reference_of
from jaxbackprop.checking.report import Report, Row
from jaxbackprop.programs.flat import CUSTOM_JVP, CUSTOM_VJP, equations, fresh, inside, traced, without_custom_rules
from jaxbackprop.refusals import is_key
from jaxbackprop.words import is_array

KERNELS = ("pallas_call", "pure_callback", "ffi_call", "custom_call")  # JAX cannot look inside


def check_gradient(value: Callable, gradient: Callable, params, *data, key=None) -> Report:
    """Check a gradient function against `jax.grad` and against finite differences in float64.

    Functions of `jax.jit` are compiled anew when they are called next: the check lets them forget what was compiled.

    Args:
        value: (params, *data) → scalar, in plain JAX.
        gradient: (params, *data) → gradient, shaped like params. Anyone's, however it was made; it is also called with
            float64 arrays, and at drawn parameters: entries moved and turned in sign. Where it cannot take float64 it is
            judged in the given dtype alone; drawn parameters that it refuses are left out.
        params: a pytree of floating-point arrays.
        *data: what else both functions take; it is never changed, as it may obey rules that the derivation relies on.
        key: a `jax.random.key` that draws points and directions; fixed by default, so that a check can be repeated.

    Returns:
        `Report`: `.ok`, `.outcome`, `.rows`, `.line`, `str(report)`, `.to_dict()`, `.raise_if_wrong()`. `.ok`: nothing
        wrong was found. `.outcome` is "right", "wrong", or "right where looked at", where a decision of the value (a ReLU, a
        clip, a margin) was never seen on both sides, however far the parameters were drawn.

    Raises:
        ValueError: `value` is not a real scalar, or not finite here, or there are no floating-point parameters.
        TypeError: no function, no array or no key where one is needed.

    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> report = check_gradient(lambda p: jnp.sum(p["w"] ** 2), lambda p: p, params)  # forgot the 2
    >>> report.ok, report.rows[0].parameter, report.rows[0].diagnosis.kind
    (False, "['w']", 'factor')
    >>> report.rows[0].problem
    'it is 0.5 times the right one: is a factor 2 forgotten?; at [1] 2 where 4 is right'
    """
    _require_functions(value=value, gradient=gradient)
    rng = _generator(key)
    _require_leaves("params", params)
    params = jax.tree.map(jnp.asarray, params)
    _require_parameters(params)
    _is_arrays(data)
    _require_scalar(value, params, data)
    given = gradient(params, *data)
    _require_leaves("gradient's result", given)
    _forget(value, gradient)
    with jax.enable_x64(True):
        report = compare(reference_of(value, params, data), gradient, params, data, given, rng)
    _forget(value, gradient)
    said = Diagnosis("structure", "the gradient has this, and params has no such parameter")
    extra = [Row(path, False, "", np.inf, diagnosis=said) for path in align(names(params), params, given).extra]
    return replace(report, rows=(*report.rows, *extra))


def assert_gradient(value: Callable, gradient: Callable, params, *data, key=None, strict: bool = False) -> Report:
    """Check a gradient as `check_gradient` does, and raise an `AssertionError` with the whole table if it is wrong.

    For tests: `assert_gradient(loss, my_gradient, params, x, y)`. With `strict` it raises on "right where looked at" too.

    >>> assert_gradient(lambda w: jnp.sum(w**3), lambda w: 3 * w**2, jnp.arange(3.0)).ok
    True
    """
    report = check_gradient(value, gradient, params, *data, key=key)
    report.raise_if_wrong(strict)
    return report


def check_vjp(f: Callable, *args, reference: Callable | None = None, key=None) -> Report:
    """Check the derivative rule of a function with `jax.custom_vjp`, a Pallas kernel say, in all its floating-point arguments.

    The value is Σ c · f(args) with random cotangents c, drawn once: then the gradient under test is fᵀ's, c pulled back.

    Args:
        f: (*args) → a pytree of arrays.
        *args: where to check it; floating-point arrays among them are differentiated, other leaves are data.
        reference: the same function in plain JAX; by default f itself with custom rules taken out, so that JAX
            differentiates its body. A kernel needs a reference, as JAX cannot look inside.
        key: a `jax.random.key` that draws the cotangents, points and directions.

    Returns:
        `Report`; parameters are named by argument, "[0]" the first.

    Raises:
        ValueError: f has no derivative rule of its own and no reference, there is no floating-point argument, f returns no
            floating-point array, or a complex one, or `reference` returns something else than f.
        TypeError: no function, no array or no key where one is needed.

    >>> @jax.custom_vjp
    ... def swish(x): return x * jax.nn.sigmoid(x)
    >>> swish.defvjp(lambda x: (swish(x), x), lambda x, d: (d * jax.nn.sigmoid(x),))
    >>> check_vjp(swish, jnp.linspace(-2, 2, 5)).ok
    False
    """
    _require_functions(f=f, reference=f if reference is None else reference)
    _require_leaves("args", args)
    leaves, structure = jax.tree.flatten(args)
    differentiated = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(args)]
    params = {paths[i]: leaves[i] for i in differentiated}
    if not params:
        raise ValueError("no argument holds floating-point arrays: there is nothing to differentiate")
    others = [leaf for i, leaf in enumerate(leaves) if i not in differentiated]

    def rebuilt(params, others):
        rest = iter(others)
        return jax.tree.unflatten(structure, [params[p] if p in params else next(rest) for p in paths])

    rng = _generator(key)
    outputs = jax.tree.leaves(jax.eval_shape(fresh(f), *args))
    _require_outputs(outputs)
    drawn = [out for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)]
    cotangents = [jnp.asarray(rng.standard_normal(out.shape), out.dtype) for out in drawn]

    def pulled(function):
        def value(params, *others):
            outs = jax.tree.leaves(function(*rebuilt(params, others)))
            floating = [out for out in outs if jnp.issubdtype(out.dtype, jnp.floating)]
            terms = [jnp.sum(c.astype(out.dtype) * out) for c, out in zip(cotangents, floating, strict=True)]
            return sum(terms, start=jnp.zeros(()))

        return value

    plain = without_custom_rules(f) if reference is None else reference
    _require_same(f, plain, args)
    if reference is None:
        _require_rule(f, args)
    report = check_gradient(pulled(plain), jax.grad(pulled(f)), params, *others, key=key)
    return replace(report, rows=tuple(row._replace(parameter=row.parameter[2:-2]) for row in report.rows))


def _require_parameters(params) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(leaf.size for _, leaf in leaves):
        raise ValueError("params holds no arrays, or empty ones: there is nothing to check")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has dtype {leaf.dtype}: gradients are of floating-point arrays"
            )
        if not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"params{jax.tree_util.keystr(path)} holds NaN or infinity: check at finite parameters")


def _is_arrays(data) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        where = f"data{jax.tree_util.keystr(path)}"
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise ValueError(
                f"{where} is a {type(leaf).__name__}: data are arrays; let the functions close over all else"
            )
        is_array(where, leaf)


def _require_leaves(where, tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_array(f"{where}{jax.tree_util.keystr(path)}", leaf)


def _require_scalar(value, params, data) -> None:
    out = jax.eval_shape(fresh(value), params, *data)
    shape = getattr(out, "shape", None)
    if shape != ():
        said = f"shape {shape}" if shape is not None else f"a {type(out).__name__}"
        raise ValueError(f"value returns {said}, expected a scalar: reduce it, by a mean say")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"value returns {out.dtype}, expected a floating-point scalar: nothing else has a gradient")


def _require_outputs(outputs) -> None:
    dtypes = [out.dtype for out in outputs]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        raise ValueError(
            "f returns a complex array: give the real and the imaginary part as two, both are then checked"
        )
    if not any(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError("f returns no floating-point array: there is nothing to differentiate")


def _require_rule(f, args) -> None:
    """Refuse a function that JAX differentiates by itself: beside its own body nothing of it would be checked."""
    calls = [e for e in equations(traced(f, *args)[0].jaxpr) if e.primitive.name in (CUSTOM_JVP, CUSTOM_VJP, *KERNELS)]
    if not all(map(_of_jax, calls)):
        return
    said = "only JAX's own, as in jax.nn.relu" if calls else "no custom_vjp, custom_jvp or kernel inside"
    raise ValueError(
        f"f has no derivative rule of its own ({said}): there is nothing to check; give reference=, "
        "the same function in plain JAX, or check a gradient of yours with check_gradient(value, gradient, params)"
    )


def _of_jax(call) -> bool:
    """Whether a rule belongs to a function of JAX's."""
    written = " ".join(str(getattr(inner.jaxpr, "debug_info", "")) for inner in inside(call.params))
    return call.primitive.name not in KERNELS and str(Path(jax.__file__).parent) in written


def _require_functions(**functions) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} is a {type(function).__name__}: expected a function")


def _require_same(f, reference, args) -> None:
    given, expected = (jax.eval_shape(fresh(function), *args) for function in (f, reference))
    if jax.tree.map(lambda a: (a.shape, a.dtype), given) != jax.tree.map(lambda a: (a.shape, a.dtype), expected):
        raise ValueError(f"f returns {given}, reference {expected}: they must be the same function")


def _forget(*functions) -> None:
    """Let functions of `jax.jit` forget what they have compiled: see `programs.flat.traced`."""
    for function in functions:
        getattr(function, "clear_cache", lambda: None)()


def _generator(key) -> np.random.Generator:
    """Numbers drawn on the host: they need no compilation."""
    if key is None:
        return np.random.default_rng([0])
    is_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
