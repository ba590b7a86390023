"""The gradient under test: anyone's function, run wherever the check looks, in float64 where it can be.

What JAX can trace has its loops end, as drawn parameters may never settle, and tells in which dtype it computes. What refuses
float64, be it for the arrays that it finds in its closure, is run with these widened, or judged in the given dtype alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.checking.closures import with_arrays_widened
from jaxbackprop.checking.leaves import narrowest_of, one_line, widened
from jaxbackprop.checking.reference import LOOP_STEPS
from jaxbackprop.programs.flat import Program, as_function, flatten
from jaxbackprop.programs.loops import bounded, has_loops


class Tested(NamedTuple):
    """The gradient under test.

    Attributes:
        leaves_at: (params, data) → its leaves, None where one is missing.
        dtype: that it returns, the narrowest.
        program: it as JAX traces it in float64; None where it cannot be traced so.
        notes: what is to be said of it.
    """

    leaves_at: Callable[[Any, Any], list[Any]]
    dtype: str
    program: Program | None
    notes: tuple[str, ...]


def under_test(gradient: Callable, params, data) -> Tested:
    """Make a gradient one that can be tested: (params by name, *data) → leaves, in float64 if it runs so here."""
    raised = []
    for function in (gradient, with_arrays_widened(gradient)):
        try:
            program = _program(function, params, data)
            if program is None:
                ends = function
            else:
                ends = jax.jit(bounded(function, LOOP_STEPS) if has_loops(program) else as_function(program))

            def wide(at, data, ends=ends):
                return ends(widened(at), *widened(data))

            dtype = narrowest_of(jnp.result_type(leaf) for leaf in wide(params, data) if leaf is not None)
            said = f"given float64, the gradient returns {dtype}: judged by that precision"
            return Tested(wide, dtype, program, () if dtype == "float64" else (said,))
        except Exception as error:  # anyone's code: it need not take float64
            raised.append(one_line(error))
    dtype = narrowest_of(leaf.dtype for leaf in jax.tree.leaves(params))

    def as_given(at, data):
        with jax.enable_x64(dtype == "float64"):
            return gradient(jax.tree.map(jnp.asarray, at), *data)

    said = f"the gradient does not run in float64 ({raised[0]}): judged in {dtype} alone"
    return Tested(as_given, dtype, None, (said,))


def _program(gradient: Callable, params, data) -> Program | None:
    try:
        return flatten(gradient, widened(params), *widened(data))
    except Exception:  # anyone's code: NumPy or another framework says so in its own way
        return None
