"""How far rounding moves what a program computes: by the length of its sums, by its precision, and as it is measured."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.leaves import narrowest_of
from jaxbackprop.programs.flat import Program, equations, inside, run, shape_of

SCATTERED = 4  # runs by which rounding is measured
# what rounds its result; all else copies, compares or counts
ROUNDING = (
    *("add", "add_any", "sub", "mul", "div", "pow", "integer_pow", "square", "sqrt", "rsqrt", "cbrt", "reduce_sum"),
    *("cumsum", "cumprod", "cumlogsumexp", "dot_general", "conv_general_dilated", "reduce_prod", "reduce_window_sum"),
    *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "lgamma", "digamma"),
)


def longest_sum(program: Program) -> int:
    """How many terms the longest sum has, in the program or in its derivative.

    >>> from jaxbackprop.programs.flat import flatten
    >>> longest_sum(flatten(lambda w, x: jnp.sum(x @ w), jnp.ones((3, 4)), jnp.ones((50, 3))))
    200
    """
    longest = 1
    for step in program.steps:
        shapes = [shape_of(program, operand) for operand in step.reads]
        written = program.shapes[step.writes[0]].shape if step.writes else ()
        if step.name == "dot_general":
            (contracted, _), (batch, _) = step.settings["dimension_numbers"]
            summed, shared = (math.prod(shapes[0][axis] for axis in axes) for axes in (contracted, batch))
            longest = max(longest, summed, *(math.prod(shape) // max(summed * shared, 1) for shape in shapes))
        elif step.name == "conv_general_dilated":
            kernel, spec = shapes[1], step.settings["dimension_numbers"].rhs_spec
            longest = max(longest, math.prod(kernel) // kernel[spec[0]], math.prod(written) // kernel[spec[0]])
        elif step.name.startswith("cum"):
            longest = max(longest, shapes[0][step.settings["axis"]])
        elif step.name in ("reduce_sum", "broadcast_in_dim", "reduce_window_sum") and shapes:
            sizes = math.prod(shapes[0]), math.prod(written)
            longest = max(longest, *(a // max(b, 1) for a, b in (sizes, sizes[::-1])))
    return longest


def narrowest(program: Program) -> str:
    """The narrowest floating-point type that a program computes in.

    >>> from jaxbackprop.programs.flat import flatten
    >>> narrowest(flatten(lambda x: x.astype("bfloat16") + 1, jnp.ones(3)))
    'bfloat16'
    """
    inner = (e for step in program.steps for called in inside(step.settings) for e in equations(called.jaxpr))
    avals: list[Any] = [
        *program.shapes.values(),
        *(variable.aval for equation in inner for variable in equation.outvars),
    ]
    return narrowest_of(aval.dtype for aval in avals if hasattr(aval, "dtype"))


def scattered(program: Program, leaves: Sequence[Any], rng: np.random.Generator) -> list[list[Any]]:
    """The program's outputs, several times, each result that is rounded moved by up to a unit in its last place.

    So cancellation shows, in whatever step it is: the outputs differ by what rounding may do to them.
    """

    def rule(step, *operands):
        results = step.bind(*operands)
        return [_jittered(r, rng) for r in results] if step.name in ROUNDING else results

    return [run(program, leaves, rule) for _ in range(SCATTERED)]


def _jittered(result, rng):
    if not jnp.issubdtype(result.dtype, jnp.floating):
        return result
    moved = float(jnp.finfo(result.dtype).eps) * rng.choice([-1.0, 0.0, 1.0], result.shape)
    return result * (1 + np.asarray(moved, result.dtype))
