"""A function with its own arrays in float64: those that it closes over, and the global ones that it names.

A gradient is judged in float64, and `jax.lax` wants operands of one dtype: a batch that a loss finds in its closure must follow.
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

OURS = str(Path(__file__).parents[1])


def with_arrays_widened(function: Callable) -> Callable:
    """A copy that finds float64 where the function finds floating-point arrays; what it calls is copied too, but for a library's.

    >>> x = np.ones(2, np.float32)
    >>> def double(): return 2 * x
    >>> with jax.enable_x64(True):
    ...     print(double().dtype, with_arrays_widened(double)().dtype)
    float32 float64
    """
    return _copied(function, {})


def _copied(function: Any, known: dict[int, Any]) -> Any:
    plain = getattr(function, "__wrapped__", function) if hasattr(function, "clear_cache") else function  # of jax.jit
    if isinstance(plain, partial):
        args, named = (_found(given, known) for given in (plain.args, plain.keywords))
        return partial(_copied(plain.func, known), *args, **named)
    if isinstance(plain, MethodType):
        return MethodType(_copied(plain.__func__, known), plain.__self__)
    if not isinstance(plain, FunctionType):
        return function
    if id(plain) not in known:
        known[id(plain)] = plain  # it may call itself
        known[id(plain)] = _of_function(plain, known)
    return known[id(plain)]


def _of_function(plain: FunctionType, known: dict[int, Any]) -> FunctionType:
    used = set() if _installed(plain.__code__) else _names(plain.__code__) & plain.__globals__.keys()
    around = plain.__globals__ | {name: _found(plain.__globals__[name], known) for name in used}
    cells = tuple(_cell(cell, known) for cell in plain.__closure__ or ())
    around = around if used else plain.__globals__
    copy: Any = FunctionType(plain.__code__, around, plain.__name__, _found(plain.__defaults__, known), cells)
    copy.__kwdefaults__ = _found(plain.__kwdefaults__, known)
    return copy


def _cell(cell: CellType, known: dict[int, Any]) -> CellType:
    try:
        return CellType(_found(cell.cell_contents, known))
    except ValueError:  # it is empty
        return cell


def _found(value: Any, known: dict[int, Any]) -> Any:
    """What the function finds, a pytree: its arrays widened, the user's functions copied."""

    def leaf(one):
        if isinstance(one, np.ndarray | jax.Array):
            return widened(one) if jnp.issubdtype(one.dtype, jnp.floating) else one
        return _copied(one, known) if callable(one) else one

    return jax.tree.map(leaf, value)


def _names(code: CodeType) -> set[str]:
    """The names that a function and those defined in it may look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _installed(code: CodeType) -> bool:
    return "site-packages" in code.co_filename and not code.co_filename.startswith(OURS)
