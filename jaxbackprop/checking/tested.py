"""The gradient under test: anyone's function, run wherever the check looks, in float64 where it can be.

What JAX can trace has its loops end, as drawn parameters may never settle, and tells in which dtype it computes. What refuses
float64, be it for the arrays that it finds in its closure, is run with these widened, or judged in the given dtype alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.checking.closures import with_arrays_widened
from jaxbackprop.checking.leaves import as_float64, narrowest_of, one_line, widened
from jaxbackprop.checking.reference import LOOP_STEPS
from jaxbackprop.programs.flat import Program, flatten
from jaxbackprop.programs.loops import bounded, has_loops


class Tested(NamedTuple):
    """What is known of the gradient under test.

    Attributes:
        leaves: its leaves at each point that it has an answer for, None where one is missing.
        answered: these points.
        dtype: that it returns, the narrowest.
        leaves_at: (params, data) → its leaves.
        program: it as JAX traces it in float64; None where it cannot be traced so.
        notes: what is to be said of it.
    """

    leaves: list[list[Any]]
    answered: list[int]
    dtype: str
    leaves_at: Callable
    program: Program | None
    notes: tuple[str, ...] = ()


def run(gradient: Callable, at: list[Any], data) -> Tested:
    """Run the gradient under test, a function of arrays by name, at every point."""
    try:
        leaves_at, program, first = _in_float64(gradient, at[0], data)
        dtype = narrowest_of(jnp.result_type(leaf) for leaf in first if leaf is not None)
        notes = [] if dtype == "float64" else [f"given float64, the gradient returns {dtype}: judged by that precision"]
    except Exception as error:  # anyone's code: it need not take float64
        program, dtype = None, narrowest_of(leaf.dtype for leaf in jax.tree.leaves(at[0]))
        leaves_at = _as_given(gradient, dtype)
        notes = [f"the gradient does not run in float64 ({one_line(error)}): judged in {dtype} alone"]
    leaves, answered = [], []
    for k, params in enumerate(at):
        try:
            leaves.append([None if leaf is None else as_float64(leaf) for leaf in leaves_at(params, data)])
            answered.append(k)
        except Exception as error:  # it may refuse parameters that were drawn
            if k == 0:
                raise
            notes.append(f"at some drawn parameters the gradient raises {one_line(error)}: they are left out")
    return Tested(leaves, answered, dtype, leaves_at, program, tuple(notes))


def _in_float64(gradient: Callable, params, data) -> tuple[Callable, Program | None, list[Any]]:
    """The gradient in float64, as it is or with its own arrays widened: its leaves at any point, its program, its leaves here.

    Raises what the gradient as it is raises, where neither runs.
    """
    raised = []
    for function in (gradient, with_arrays_widened(gradient)):
        try:
            program = _program(function, params, data)
            ends = jax.jit(bounded(function, LOOP_STEPS)) if program and has_loops(program) else function

            def leaves_at(at, data, ends=ends):
                grads = ends(widened(at), *widened(data))
                return [grads.get(path) for path in params]

            return leaves_at, program, leaves_at(params, data)
        except Exception as error:  # anyone's code
            raised.append(error)
    raise raised[0]


def _as_given(gradient: Callable, dtype: str) -> Callable:
    def leaves_at(params, data):
        with jax.enable_x64(dtype == "float64"):
            grads = gradient(jax.tree.map(jnp.asarray, params), *data)
        return [grads.get(path) for path in params]

    return leaves_at


def _program(gradient: Callable, params, data) -> Program | None:
    try:
        return flatten(gradient, widened(params), *widened(data))
    except Exception:  # anyone's code: NumPy or another framework says so in its own way
        return None
