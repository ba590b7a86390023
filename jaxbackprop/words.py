"""What messages are made of: names and their neighbours, and shapes declared as letters."""

from collections.abc import Callable, Collection, Mapping
from numbers import Integral
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxbackprop.spelling import unknown

T = TypeVar("T", bound=tuple)


def paths_of(tree: Any) -> list[tuple[str, ...]]:
    """The path of each leaf, as its names.

    >>> paths_of({"layer": {"w": 0, "b": [1, 2]}})
    [('layer', 'b', '0'), ('layer', 'b', '1'), ('layer', 'w')]
    """
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path) for path in paths]


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with the first number from 2 that makes it another than all that are taken.

    >>> unused("w", ["w", "b"])
    'w:2'
    """
    return next(n for n in (name, *(f"{name}:{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def look_up(kind: str, table: Mapping[str, T], name_or_pair: str | tuple) -> T | tuple[Callable, Callable]:
    """Return the entry of that name, or the pair itself after a look that it is one.

    Raises:
        ValueError: no entry has that name; the message says the nearest.
        TypeError: neither a name nor a pair of functions, or functions that cannot be hashed.
    """
    if isinstance(name_or_pair, str):
        if name_or_pair in table:
            return table[name_or_pair]
        raise ValueError(unknown(kind, name_or_pair, table))
    if isinstance(name_or_pair, tuple) and len(name_or_pair) == 2 and all(map(callable, name_or_pair)):
        require_hashable(kind, name_or_pair)
        return name_or_pair
    raise TypeError(
        f"{kind} is {name_or_pair!r}: expected a name ({', '.join(table)}) or a pair of functions (value, derivative)"
    )


def require_positive(name: str, number: Any) -> None:
    """Refuse what is not an integer of at least 1.

    >>> require_positive("epochs", 3)
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{name} is {number!r}: expected an integer of at least 1")


def require_hashable(what: str, functions: Any) -> None:
    """Refuse functions that cannot be hashed: a compiled program is looked up by them."""
    try:
        hash(functions)
    except TypeError:
        raise TypeError(f"{what} cannot be hashed, and programs are looked up by it: give a plain function") from None


FLOATING, REAL, ANY = "floating point", "real numbers", "numbers"


def fits(sizes: Mapping[str, int], **arrays: tuple[Any, str, str]) -> dict[str, int]:
    """Refuse the first array that does not have its shape, declared as letters: the first array that bears one sets it.

    Args:
        sizes: of the letters that are known beforehand.
        arrays: by name (array, letters, kind). "b d" has two axes, "b …" one or more, "" none; "b d | d" either.

    Returns:
        the size of every letter.

    Raises:
        TypeError: something that is no array, a list say.
        ValueError: another shape, or numbers of another kind; the line says what was given and what fits.

    >>> fits({"d": 2}, x=(jnp.ones((3, 2)), "b d", FLOATING), y=(jnp.ones(4), "b …", ANY))
    Traceback (most recent call last):
        ...
    ValueError: y has shape (4,), expected (3, …): b is 3 in x (3, 2)
    """
    known, first = dict(sizes), {}
    for name, (array, declared, kind) in arrays.items():
        is_array(name, array)
        shape = jnp.shape(array)
        axes = next(
            (letters for option in declared.split("|") if _bears(letters := option.split(), shape, known)), None
        )
        if axes is None:
            raise ValueError(
                f"{name} has shape {shape}, expected {_wanted(declared, known)}{_because(declared, first)}"
            )
        for letter, size in zip(axes, shape, strict=False):
            if letter.isalpha() and letter not in known:
                known[letter], first[letter] = size, f"{letter} is {size} in {name} {shape}"
        is_of_kind(name, array, kind)
    return known


def _bears(letters: list[str], shape: tuple[int, ...], known: Mapping[str, int]) -> bool:
    open_ended = letters[-1:] == ["…"]
    letters = letters[:-1] if open_ended else letters
    fit = len(shape) >= len(letters) if open_ended else len(shape) == len(letters)
    return fit and all(known.get(letter, size) == size for letter, size in zip(letters, shape, strict=False))


def _wanted(declared: str, known: Mapping[str, int]) -> str:
    options = ([str(known.get(letter, letter)) for letter in option.split()] for option in declared.split("|"))
    return " or ".join(f"({', '.join(option)}{',' if len(option) == 1 else ''})" for option in options)


def _because(declared: str, first: Mapping[str, str]) -> str:
    told = [first[letter] for letter in declared.split() if letter in first]
    return f": {', '.join(told)}" if told else ""


def is_array(name: str, given: Any, expected: str = "an array, such as jax.numpy.asarray gives") -> None:
    """Refuse what is neither an array that JAX takes nor a plain number."""
    if not hasattr(given, "dtype") and not isinstance(given, int | float | complex):
        raise TypeError(f"{name} is a {type(given).__name__}: expected {expected}")
    try:
        jnp.result_type(given)
    except TypeError:
        found = getattr(given, "dtype", None)
        raise TypeError(f"{name} has dtype {found}, which JAX does not have: expected numbers") from None


def is_of_kind(name: str, given: Any, kind: str) -> None:
    """Refuse numbers that are not floating point, or not real, where they should be."""
    dtype = jnp.result_type(given)
    if kind == FLOATING and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {dtype}, expected floating point: {name}.astype('float32')")
    if kind == REAL and jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} has dtype {dtype}: expected real numbers")
