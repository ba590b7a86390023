"""A function with arrays of its own in place of those that it closes over, and of the global ones that it names.

A gradient is judged in float64, and `jax.lax` wants operands of one dtype: a batch that a loss finds in its closure must follow.
And JAX gives an array of NumPy's one dtype for as long as anything compiled holds it: a copy is held by nothing of the user's,
whose compiled programs stay as they are.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.leaves import widened
from jaxbackprop.programs.flat import uncompiled

OURS = str(Path(__file__).parents[1])


def with_arrays_widened(function: Callable) -> Callable:
    """A copy that finds float64 where the function finds floating-point arrays; what it calls is copied too, but for a library's.

    >>> x = np.ones(2, np.float32)
    >>> def double(): return 2 * x
    >>> with jax.enable_x64(True):
    ...     print(double().dtype, with_arrays_widened(double)().dtype)
    float32 float64
    """
    return _copied(function, lambda a: widened(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, {})


def with_arrays_copied(function: Callable) -> Callable:
    """A copy that finds copies of NumPy's arrays where the function finds these; nothing in it is compiled.

    >>> x = np.ones(2)
    >>> x is with_arrays_copied(lambda: x)()
    False
    """
    return _copied(function, lambda a: a.copy() if isinstance(a, np.ndarray) else a, {})


def _copied(function: Any, replaced: Callable, known: dict[int, Any]) -> Any:
    """The copy; `replaced` gives what takes an array's place, `known` what is copied already, by its id."""
    plain = uncompiled(function)
    if isinstance(plain, partial):
        args, named = (_found(given, replaced, known) for given in (plain.args, plain.keywords))
        return partial(_copied(plain.func, replaced, known), *args, **named)
    if isinstance(plain, MethodType):
        return MethodType(_copied(plain.__func__, replaced, known), plain.__self__)
    if not isinstance(plain, FunctionType):
        return function
    if id(plain) not in known:
        known[id(plain)] = plain  # it may call itself
        known[id(plain)] = _of_function(plain, lambda value: _found(value, replaced, known))
    return known[id(plain)]


def _of_function(plain: FunctionType, found: Callable) -> FunctionType:
    used = set() if _installed(plain.__code__) else _names(plain.__code__) & plain.__globals__.keys()
    around = plain.__globals__ | {name: found(plain.__globals__[name]) for name in used}
    cells = tuple(_cell(cell, found) for cell in plain.__closure__ or ())
    around = around if used else plain.__globals__
    copy: Any = FunctionType(plain.__code__, around, plain.__name__, found(plain.__defaults__), cells)
    copy.__kwdefaults__ = found(plain.__kwdefaults__)
    return copy


def _cell(cell: CellType, found: Callable) -> CellType:
    try:
        return CellType(found(cell.cell_contents))
    except ValueError:  # it is empty
        return cell


def _found(value: Any, replaced: Callable, known: dict[int, Any]) -> Any:
    """What the function finds, a pytree: its arrays replaced, the user's functions copied."""

    def leaf(one):
        if isinstance(one, np.ndarray | jax.Array):
            return replaced(one)
        return _copied(one, replaced, known) if callable(one) else one

    return jax.tree.map(leaf, value)


def _names(code: CodeType) -> set[str]:
    """The names that a function and those defined in it may look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _installed(code: CodeType) -> bool:
    return "site-packages" in code.co_filename and not code.co_filename.startswith(OURS)
