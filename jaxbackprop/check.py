"""A gradient check for anyone's gradient: beside `jax.grad`, and, independently, beside differences in float64.

A gradient is compared parameter by parameter: a wrong skip term, say, corrupts one weight matrix only, and would drown
in one norm over all of them. Errors are scaled by the largest entry of that parameter's own gradient.

    jax.grad            |gradient − jax.grad|∞ / |jax.grad|∞               in the given dtype, and in float64
    finite differences  ⟨gradient, v⟩ against (value(p + t v) − value(p − t v)) / 2t      in float64

Allowed is what arithmetic explains. Where a gradient cancels to almost nothing its own size says little: then the
yardstick is the rounding error of `jax.grad` itself, float32 (or whatever is given) against float64.

Central differences along random ±1 directions v of one parameter are off by O(t²) from the curvature and by
O(eps |value| / t) from rounding, unless a kink of the function (a ReLU that changes sign) lies between the two points. A
kink in between moves out as t shrinks; a wrong gradient stays wrong. At a point that sits on a kink the two one-sided
slopes differ however small t is, and any slope between them is right. A direction counts as failed only when no
step agrees and the point is not on a kink.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The length of the sums is not known here; 1e-5 and 1e-12 are about 100 times what right gradients show.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1, "float16": 0.02}
DIFFERENCE_TOLERANCE = 1e-6
STEPS = (1e-5, 1e-6, 1e-7)
DIRECTIONS = 3
ROUNDING = 16  # one sample of a rounding error says its size only roughly


class Row(NamedTuple):
    """One parameter's verdict; errors are relative to the largest entry of its gradient, None where not compared."""

    parameter: str
    ok: bool
    dtype: str
    error: float
    error_float64: float | None
    error_differences: float | None
    problem: str


@dataclass(frozen=True)
class Report:
    """The verdict over all parameters, a `Row` for each."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every parameter's gradient is right."""
        return all(row.ok for row in self.rows)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        wrong = [row.parameter for row in self.rows if not row.ok]
        if wrong:
            return f"WRONG for {len(wrong)} of {len(self.rows)} parameters: {', '.join(wrong)}"
        compared = [
            ("jax.grad", max(row.error for row in self.rows), self.rows[0].dtype),
            ("jax.grad", _largest(row.error_float64 for row in self.rows), "float64"),
            ("finite differences", _largest(row.error_differences for row in self.rows), "float64"),
        ]
        errors = ", ".join(
            f"{_figure(error)} ({what}, {dtype})" for what, error, dtype in compared if error is not None
        )
        return f"right, {len(self.rows)} parameters; largest relative difference {errors}"

    def __str__(self):
        """The verdict, then an aligned table."""
        head = ("parameter", "verdict", "jax.grad", "in float64", "differences", "")
        table = [head] + [
            (
                row.parameter,
                "right" if row.ok else "WRONG",
                _figure(row.error),
                _figure(row.error_float64),
                _figure(row.error_differences),
                row.problem,
            )
            for row in self.rows
        ]
        width = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)).rstrip() for line in table]
        return "\n".join([f"gradient check: {self.line}", *lines])

    def raise_if_wrong(self) -> None:
        """Raise an `AssertionError` that holds the table unless every row is right."""
        if not self.ok:
            raise AssertionError(str(self))


def check_gradient(value: Callable, gradient: Callable, params, *data, key=None) -> Report:
    """Check a gradient function against `jax.grad` and against finite differences in float64.

    Args:
        value: (params, *data) → scalar, in plain JAX.
        gradient: (params, *data) → gradient, shaped like params. Anyone's, however it was made.
        params: a pytree of floating-point arrays.
        *data: what else both functions take.
        key: a `jax.random.key` that draws the directions; fixed by default, so that a check can be repeated.

    Returns:
        `Report`: `.ok`, `.rows`, `.line`, `str(report)`, `.raise_if_wrong()`.

    Raises:
        ValueError: `value` is not scalar, or there are no parameters.

    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> report = check_gradient(lambda p: jnp.sum(p["w"] ** 2), lambda p: p, params)  # forgot the 2
    >>> report.ok, report.rows[0].parameter
    (False, "['w']")
    """
    key = jax.random.key(0) if key is None else key
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:
        raise ValueError("params holds no arrays: there is nothing to check")
    shape = jax.eval_shape(value, params, *data).shape
    if shape != ():
        raise ValueError(f"value returns shape {shape}, expected a scalar: reduce it, by a mean say")
    expected = jax.jit(jax.grad(value))(params, *data)
    given = gradient(params, *data)
    if jax.tree.structure(given) != jax.tree.structure(expected):
        problem = f"the gradient is {jax.tree.structure(given)}, params is {jax.tree.structure(expected)}"
        return Report(tuple(Row(path, False, "", np.inf, None, None, problem) for path in paths))
    with jax.enable_x64(True):
        params64, data64 = jax.tree.map(_float64, (params, data))
        expected64 = jax.jit(jax.grad(value))(params64, *data64)
        given64 = gradient(params64, *data64)
        slopes = _slopes(jax.jit(value), given64, params64, data64, key)
    leaves = zip(paths, *map(jax.tree.leaves, (given, expected, given64, expected64)), slopes, strict=True)
    return Report(tuple(_row(*leaf) for leaf in leaves))


def _row(path, given, expected, given64, expected64, slope) -> Row:
    dtype = str(expected.dtype)
    if jnp.shape(given) != expected.shape:
        problem = f"the gradient has shape {jnp.shape(given)}, the parameter {expected.shape}"
        return Row(path, False, dtype, np.inf, None, None, problem)
    if jnp.shape(given64) != expected.shape:
        problem = f"the gradient has shape {jnp.shape(given64)} in float64, the parameter {expected.shape}"
        return Row(path, False, dtype, np.inf, None, None, problem)
    size, size64 = _largest_entry(expected), _largest_entry(expected64)
    rounding = _largest_entry(_difference(expected, expected64))
    rounding64 = rounding * float(jnp.finfo("float64").eps / jnp.finfo(dtype).eps)
    error, error64 = _largest_entry(_difference(given, expected)), _largest_entry(_difference(given64, expected64))
    # `not (a <= b)` rather than `a > b`: NaN is wrong
    problems = [
        *(["differs from jax.grad"] if not error <= TOLERANCE[dtype] * size + ROUNDING * rounding else []),
        *(
            ["differs from jax.grad in float64"]
            if not error64 <= TOLERANCE["float64"] * size64 + ROUNDING * rounding64
            else []
        ),
        *(["differs from finite differences"] if not slope.ok else []),
    ]
    return Row(
        path, not problems, dtype, error / (size or 1), error64 / (size64 or 1), slope.error, ", ".join(problems)
    )


def _difference(given, expected):
    return np.asarray(given, np.float64) - np.asarray(expected, np.float64)


def _largest_entry(array) -> float:
    return float(np.max(np.abs(np.asarray(array, np.float64)), initial=0))


class _Slope(NamedTuple):
    ok: bool
    error: float


def _slopes(value, gradient, params, data, key) -> list[_Slope]:
    """For each parameter the worst of a few random directions."""
    leaves, structure = jax.tree.flatten(params)
    start = float(value(params, *data))
    slopes = []
    for i, (leaf, g) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        found = [_Slope(jnp.shape(g) == leaf.shape, 0.0)]
        for direction_key in jax.random.split(jax.random.fold_in(key, i), DIRECTIONS) if found[0].ok else ():
            v = jax.random.rademacher(direction_key, leaf.shape, leaf.dtype)

            def along(t, i=i, v=v):
                moved = [*leaves[:i], leaves[i] + t * v, *leaves[i + 1 :]]
                return float(value(jax.tree.unflatten(structure, moved), *data))

            found.append(_slope(along, start, float(jnp.sum(g * v)), _largest_entry(g) * leaf.size**0.5))
        slopes.append(_Slope(all(slope.ok for slope in found), max(slope.error for slope in found)))
    return slopes


def _slope(along, start, slope, scale) -> _Slope:
    """Compare one directional derivative with differences of `along` at 0, at several steps."""
    ahead = [(along(t) - start) / t for t in STEPS]
    behind = [(start - along(-t)) / t for t in STEPS]
    if not np.all(np.isfinite([*ahead, *behind, slope])):
        return _Slope(False, np.inf)
    noise = [4 * np.finfo(np.float64).eps * abs(start) / t for t in STEPS]
    errors = [abs((a + b) / 2 - slope) for a, b in zip(ahead, behind, strict=True)]
    agrees = [e <= DIFFERENCE_TOLERANCE * scale + n for e, n in zip(errors, noise, strict=True)]
    # on a kink the one-sided slopes stay as they are while t shrinks, and stay apart
    slack = 1e-4 * max(abs(ahead[-1]), abs(behind[-1])) + noise[-1]
    steady = abs(ahead[-1] - ahead[-2]) <= slack and abs(behind[-1] - behind[-2]) <= slack
    low, high = sorted((ahead[-1], behind[-1]))
    on_kink = steady and high - low > 10 * slack and low - slack <= slope <= high + slack
    return _Slope(any(agrees) or on_kink, 0.0 if on_kink else min(errors) / (scale or 1))


def _float64(leaf):
    return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


def _largest(errors) -> float | None:
    return max((error for error in errors if error is not None), default=None)


def _figure(error) -> str:
    return "-" if error is None else f"{error:.1e}" if error else "0"
