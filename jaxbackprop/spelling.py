"""A name that is not known, and its nearest neighbour: without JAX, so that who mistypes waits for nothing."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Say in one line that `given` is not known, and what is nearest.

    >>> unknown("activation", "rleu", ["relu", "tanh"])
    "unknown activation 'rleu': did you mean 'relu'? Known: relu, tanh"
    """
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {given!r}: {hint}Known: {', '.join(known)}"
