"""One rule for everything that is given as a name from a table or as a pair of functions of one's own."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar

T = TypeVar("T", bound=tuple)


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


def extra(module: str, package: str, what: str, name: str = "cli") -> Any:
    """Import what an extra of this package installs; where it is missing, say which.

    >>> extra("json", "the standard library", "an example").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install 'jaxbackprop[{name}]'") from error


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


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Say in one line that `given` is not known, and what is nearest.

    >>> unknown("activation", "rleu", ["relu", "tanh"])
    "unknown activation 'rleu': did you mean 'relu'? Known: relu, tanh"
    """
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {given!r}: {hint}Known: {', '.join(known)}"
