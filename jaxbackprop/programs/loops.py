"""Loops that may never end: a function with its `while` loops stopped after so many steps.

A solver that goes on until x_{k+1} is near x_k need not come to an end where nobody has tried it. What is stopped is NaN, so
that a check can leave that point out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxbackprop.programs.flat import Program, Step, equations, flatten, inside, run


def bounded(function: Callable, most: int, more: int = 0) -> Callable:
    """The same function, whose `while` loops end after so many steps: what one computes that wants more is NaN.

    Only loops that compare floating-point numbers, as what converges does: those that count come to an end. Such loops go on
    for `more` steps after their own. Derivatives are to be taken before: custom rules are gone.

    >>> halved = lambda x: jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)
    >>> [float(bounded(halved, most)(8.0)) for most in (3, 2)]
    [1.0, nan]
    """

    def rule(step: Step, *operands):
        if step.name == "while":
            return _bounded_loop(step.settings, operands, most, more)
        if step.name in ("scan", "cond") and any("while" in str(called.jaxpr) for called in inside(step.settings)):
            return step._replace(settings=_with_bounded(step.settings, most, more)).bind(*operands)
        return step.bind(*operands)

    def of(*args):
        program = flatten(function, *args)
        return jax.tree.unflatten(program.structure, run(program, jax.tree.leaves(args), rule))

    return of


def has_loops(program: Program) -> bool:
    """Whether a step is a `while` loop, or has one in it."""
    inner = (e.primitive.name for step in program.steps for j in inside(step.settings) for e in equations(j.jaxpr))
    return any(step.name == "while" for step in program.steps) or "while" in inner


def _bounded_loop(settings, operands, most: int, more: int) -> list[Any]:
    by_fractions = any(
        jnp.issubdtype(v.aval.dtype, jnp.floating) for e in equations(settings["cond_jaxpr"].jaxpr) for v in e.invars
    )
    most = most if by_fractions else 2**31 - 2  # a loop that counts comes to its end
    cut = settings["cond_nconsts"], settings["cond_nconsts"] + settings["body_nconsts"]
    asked, made, start = operands[: cut[0]], operands[cut[0] : cut[1]], operands[cut[1] :]
    ask, make = (_bounded_jaxpr(settings[which], most, more) for which in ("cond_jaxpr", "body_jaxpr"))

    def wants_more(values):
        return jnp.any(ask(*asked, *values)[0])

    count, end = jax.lax.while_loop(
        lambda state: wants_more(state[1]) & (state[0] < most),
        lambda state: (state[0] + 1, make(*made, *state[1])),
        (0, list(start)),
    )
    endless = wants_more(end) & (count >= most)
    for _ in range(more if by_fractions else 0):
        end = make(*made, *end)
    floating = [jnp.issubdtype(value.dtype, jnp.inexact) for value in end]
    return [jnp.where(endless, jnp.nan, v).astype(v.dtype) if f else v for v, f in zip(end, floating, strict=True)]


def _bounded_jaxpr(closed: ClosedJaxpr, most: int, more: int) -> Callable:
    return bounded(jaxpr_as_fun(closed), most, more)


def _with_bounded(settings, most: int, more: int) -> dict[str, Any]:
    def of(value):
        if isinstance(value, tuple | list):
            return type(value)(map(of, value))
        if not isinstance(value, ClosedJaxpr) or not hasattr(value, "in_avals"):
            return value
        return jax.make_jaxpr(_bounded_jaxpr(value, most, more))(*value.in_avals)

    return {name: of(value) if name in ("jaxpr", "branches") else value for name, value in settings.items()}
