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
differences, as it is for the derivative. What rounding inside either gradient moves it by is allowed where they differ: an exact
formula may cancel. What stays wrong is compared with the familiar mistakes (`diagnosis.py`, `causes.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.arguments import Named, Parameters, apart, is_number, names_in, parameters
from jaxbackprop.checking.closures import with_arrays_copied
from jaxbackprop.checking.decisions import KERNELS
from jaxbackprop.checking.diagnosis import Diagnosis
from jaxbackprop.checking.reference import reference_of
from jaxbackprop.checking.report import Report, Row
from jaxbackprop.checking.tested import under_test
from jaxbackprop.checking.verdict import verdict
from jaxbackprop.programs.flat import CUSTOM_JVP, CUSTOM_VJP, equations, fresh, inside, traced, without_custom_rules
from jaxbackprop.refusals import is_key
from jaxbackprop.words import is_array


class NoRuleError(ValueError):
    """The function has no derivative rule of its own that could be checked."""


def check_gradient(value: Callable, gradient: Callable, params, *data, key=None) -> Report:
    """Check a gradient function against `jax.grad` and against finite differences in float64.

    Functions of `jax.jit` are compiled anew when they are called next: the check lets them forget what was compiled.

    Args:
        value: (params, *data) → scalar, in plain JAX.
        gradient: (params, *data) → gradient, shaped like params. Anyone's, however it was made; it is also called with
            float64 arrays, and at drawn parameters: entries moved and turned in sign, matrices that a step of the value wants
            symmetric still symmetric. Arrays that it finds around it follow into float64, in a copy; where it cannot take
            float64 even so it is judged in the given dtype alone. Drawn parameters that it refuses are left out.
        params: a pytree that holds floating-point arrays, a module of Equinox or Flax NNX say; complex ones are checked in
            their real and imaginary parts. Integers, functions and the like in it have no gradient, and are passed on.
        *data: what else both functions take; it is never changed, as it may obey rules that the derivation relies on.
        key: a `jax.random.key` that draws points and directions; fixed by default, so that a check can be repeated.

    Returns:
        `Report`: `.ok`, `.outcome`, `.rows`, `.line`, `str(report)`, `.to_dict()`, `.raise_if_wrong()`. `.ok`: nothing
        wrong was found. `.outcome` is "right", "wrong", or "right where looked at", where a decision of the value (a ReLU, a
        clip, a margin) was never seen on both sides, however far the parameters were drawn, or cannot be seen (a `while`
        loop's, a kernel's); `.unseen` says which.

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
    found = parameters(params)
    _require_parameters(found)
    arrays, rebuilt = apart(data)
    _is_arrays(data)
    given = gradient(params, *data)
    take, note = _which(given, found)
    given = found.of_gradient(take(given))
    for name, leaf in given.items():
        is_array(f"gradient's result{name.removeprefix('params')}", leaf)
    of_arrays, gradient_of_arrays = _of_arrays(value, gradient, found, rebuilt, take)
    # ours is not written for the strict one, which the call above has obeyed
    with jax.numpy_dtype_promotion("standard"):
        _require_scalar(of_arrays, found.arrays, arrays)
        with jax.enable_x64(True):
            reference = reference_of(of_arrays, found.arrays, arrays, value)
            tested = under_test(gradient_of_arrays, found.arrays, arrays)
            report = verdict(reference, tested, found.arrays, arrays, given, rng)
    said = Diagnosis("structure", "the gradient has this, and params has no such parameter")
    extra = [Row(path, False, "", np.inf, diagnosis=said) for path in given if path not in found.arrays]
    skipped = [f"no floating-point arrays, and so not checked: {', '.join(found.skipped)}"] if found.skipped else []
    return replace(report, rows=(*report.rows, *extra), notes=(*report.notes, *note, *skipped))


def _of_arrays(value, gradient, found: Parameters, rebuilt: Callable, take: Callable) -> tuple[Callable, Callable]:
    """The value and the gradient as functions of arrays alone, parameters by name and data; of the gradient the leaves."""
    own_value, own_gradient = with_arrays_copied(value), with_arrays_copied(gradient)

    def value_of(arrays, *data):
        return own_value(found.rebuilt(arrays), *rebuilt(data))

    def gradient_of(arrays, *data):
        grads = found.of_gradient(take(own_gradient(found.rebuilt(arrays), *rebuilt(data))))
        return [grads.get(name) for name in found.arrays]

    return value_of, gradient_of


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
        *args: where to check it; floating-point arrays among them are differentiated, other leaves are data. What f does not
            take as an array of JAX's, by `nondiff_argnums` say, is held fixed as it is; a note says so.
        reference: the same function in plain JAX; by default f itself with custom rules taken out, so that JAX
            differentiates its body, by forward mode where it is a loop. A kernel needs a reference, as JAX cannot look inside.
        key: a `jax.random.key` that draws the cotangents, points and directions.

    Returns:
        `Report`; parameters are called as f calls them, "[0]" the first of `*args`.

    Raises:
        NoRuleError: a ValueError: f has no derivative rule of its own, and there is no reference.
        ValueError: there is no floating-point argument, f returns no floating-point array, or a complex one, or `reference`
            returns something else than f.
        TypeError: no function, no array or no key where one is needed.

    >>> @jax.custom_vjp
    ... def swish(x): return x * jax.nn.sigmoid(x)
    >>> swish.defvjp(lambda x: (swish(x), x), lambda x, d: (d * jax.nn.sigmoid(x),))
    >>> check_vjp(swish, jnp.linspace(-2, 2, 5)).ok
    False
    """
    _require_functions(f=f, reference=f if reference is None else reference)
    rng = _generator(key)
    moved, fixed, of = _by_name(f, args)
    found = parameters(moved)
    if not found.arrays:
        raise ValueError("no argument holds floating-point arrays: there is nothing to differentiate")
    shapes = _shapes(of(f), found)
    if reference is not None:
        _require_same(shapes, _shapes(of(reference), found))
    outputs = jax.tree.leaves(shapes)
    _require_outputs(outputs)
    drawn = [out for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)]
    cotangents = [jnp.asarray(rng.standard_normal(out.shape), out.dtype) for out in drawn]

    def pulled(function):
        def value(named):
            outs = jax.tree.leaves(function(named))
            floating = [out for out in outs if jnp.issubdtype(out.dtype, jnp.floating)]
            terms = [jnp.sum(c.astype(out.dtype) * out) for c, out in zip(cotangents, floating, strict=True)]
            return sum(terms, start=jnp.zeros(()))

        return value

    def gradient(named):  # integers, strings and functions among the arguments are not traced
        here = parameters(named)
        grads = jax.grad(lambda arrays: pulled(of(f))(here.rebuilt(arrays)))(here.arrays)
        return here.as_gradient(grads)

    def plain(named):
        here = parameters(named)
        ruleless = without_custom_rules(lambda arrays: of(f)(here.rebuilt(arrays)))
        return pulled(lambda _: ruleless(here.arrays))(named)

    if reference is None:
        _require_rule(lambda arrays: of(f)(found.rebuilt(arrays)), found.arrays)
    report = check_gradient(plain if reference is None else pulled(of(reference)), gradient, moved, key=key)
    said = [f"held fixed, as f does not take it as an array of JAX's: {', '.join(fixed)}"] if fixed else []
    return replace(report, notes=(*report.notes, *said))


def _by_name(f: Callable, args: tuple) -> tuple[Named, list[str], Callable]:
    """(the arguments to check by name, the names of those to hold fixed, what makes a function take the former alone).

    Fixed is what f takes only as it is: what `nondiff_argnums` says of it or of something in it, or is decided by in Python.
    """
    names = names_in(f, len(args))
    given = Named(zip(names, args, strict=True))

    def of(function):
        return lambda named: function(*(given | named).values())

    def traces(some: Named) -> bool:
        try:
            _shapes(of(f), parameters(some))
        except Exception:  # anyone's code
            return False
        return True

    fixed = []
    if not traces(given):
        alone = {name: traces(Named({name: arg})) for name, arg in given.items() if parameters(arg).arrays}
        # where nothing can be traced f is at fault: it then says how
        fixed = [name for name, could in alone.items() if not could] if any(alone.values()) else []
    return Named({name: arg for name, arg in given.items() if name not in fixed}), fixed, of


def _shapes(function: Callable, found: Parameters) -> Any:
    """The shapes of what a function returns, traced in the arrays that were found."""
    return jax.eval_shape(fresh(lambda arrays: function(found.rebuilt(arrays))), found.arrays)


def _require_parameters(found: Parameters) -> None:
    if not any(np.size(leaf) for leaf in found.arrays.values()):
        which = f" ({', '.join(found.skipped)} has none)" if found.skipped else ""
        raise ValueError(f"params holds no floating-point arrays, or empty ones{which}: there is nothing to check")
    for name, leaf in found.arrays.items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{_of_params(name)} holds NaN or infinity: check at finite parameters")


def _of_params(name: str) -> str:
    return f"params{name}" if name.startswith(("[", ".")) else name


def _which(given: Any, found: Parameters) -> tuple[Callable, list[str]]:
    """What of the gradient's result is the gradient: all of it, or the second of (value, gradient)."""
    wanted = set(found.arrays)
    pair = isinstance(given, tuple) and len(given) == 2 and is_number(given[0]) and np.shape(given[0]) == ()
    if pair and wanted - set(found.of_gradient(given)) and wanted == set(found.of_gradient(given[1])):
        return lambda result: result[1], ["the gradient returns (value, gradient): the second is checked"]
    return lambda result: result, []


def _is_arrays(data) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if is_number(leaf):
            is_array(f"data{jax.tree_util.keystr(path)}", leaf)


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


def _require_rule(f, arrays) -> None:
    """Refuse a function that JAX differentiates by itself: beside its own body nothing of it would be checked."""
    calls = [e for e in equations(traced(f, arrays)[0].jaxpr) if e.primitive.name in (CUSTOM_JVP, CUSTOM_VJP, *KERNELS)]
    if not all(map(_of_jax, calls)):
        return
    said = "only JAX's own, as in jax.nn.relu" if calls else "no custom_vjp, custom_jvp or kernel inside"
    raise NoRuleError(
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


def _require_same(given, expected) -> None:
    if jax.tree.map(lambda a: (a.shape, a.dtype), given) != jax.tree.map(lambda a: (a.shape, a.dtype), expected):
        raise ValueError(f"f returns {given}, reference {expected}: they must be the same function")


def _generator(key) -> np.random.Generator:
    """Numbers drawn on the host: they need no compilation."""
    if key is None:
        return np.random.default_rng([0])
    is_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
