"""What is given by its name, or is somebody's own: a function with its derivative beside it, or without one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxbackprop.words import look_up, require_hashable

T = TypeVar("T", bound=tuple)
C = TypeVar("C", bound=type)


def as_written(cls: C) -> C:
    """A NamedTuple whose `help` says the types of its fields as they are written: Python says them as references.

    >>> import inspect
    >>> inspect.signature(jbp.Loss).parameters["figure"].annotation
    'Figure | None'
    """
    fields = cls.__new__.__annotations__
    fields.update({name: getattr(kind, "__forward_arg__", kind) for name, kind in fields.items()})
    return cls


@dataclass(frozen=True)
class ByVjp:
    """The derivative of a function in its first argument, by `jax.vjp`: of Σ f where f has several values.

    Two of the same function are equal, and hash alike: compiled programs are looked up by it.

    >>> float(ByVjp(jnp.square)(jnp.float32(3))), ByVjp(jnp.square) == ByVjp(jnp.square)
    (6.0, True)
    """

    value: Callable

    def __call__(self, at: Any, *data: Any) -> Any:
        """The derivative at `at`, shaped like it."""
        value, pullback = jax.vjp(lambda at: self.value(at, *data), at)
        return pullback(jnp.ones_like(value))[0]


def entry_of(kind: str, table: Mapping[str, T], given: Any) -> T:
    """The entry of that name; or one made of a function, of a pair (value, derivative), or of what is an entry already.

    A derivative that is left out is `ByVjp`.

    Raises:
        ValueError: no entry has that name; the message says the nearest.
        TypeError: nothing of these, or something that cannot be hashed.
    """
    make: Any = type(next(iter(table.values())))
    given = make(given) if callable(given) else given
    if not isinstance(given, make):
        return make(*look_up(kind, table, given))
    value, derivative, *more = given
    require_hashable(kind, given)
    return make(*look_up(kind, table, (value, ByVjp(value) if derivative is None else derivative)), *more)
