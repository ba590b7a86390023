"""Layers and steps that a text counts by a letter, as layers of a network.

    z^l = W^l a^{l-1} + b^l,  a^l = σ(z^l)        and what is said of δ^{l+1}, W^{l+1}, a^{l-1}, z^L

The equations hold at every layer: they are written out at each one that the text speaks of, and what comes in at the
first of them is an input. So is one step of h_t = tanh(W h_{t-1} + U x_t): h_{t-1} comes in, unless the text speaks of
what it was made of. Where the text gives its layers by number, a line on layer l is judged at one of them.
"""

from collections.abc import Callable

from jaxbackprop.grading.counters import CODES, counter
from jaxbackprop.grading.expression import Expr, names, renamed, symbols
from jaxbackprop.grading.reading import Claim, Reading, changed, ordered, read


def moved(v: str, letter: str, by: int) -> str:
    """z700 one layer on is z701; a name without the letter stays."""
    found = counter(v)
    return f"{v[:-3]}{int(v[-3:]) + by}" if found and found[1] == letter else v


def _renamed(claim: Claim, new: Callable[[str], str]) -> Claim:
    return changed(claim, lambda e: renamed(e, new))


def _used(claims: list[Claim]) -> set[str]:
    return {v for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for v in symbols(e) if v}


def placed(claims: list[Claim]) -> tuple[list[Claim], str]:
    """The claims with the letters that count placed among each other and among layers given by number; and how, in words."""
    counted = [found for v in _used(claims) if (found := counter(v))]
    letters = {letter for _, letter, _ in counted}
    if not letters:
        return claims, ""
    last, given = _given(claims)
    if given:
        claims = [_renamed(c, lambda v: _at(v, "L", last)) for c in claims]
        return [_numbered(c, given) for c in claims], "layers that a letter counts are judged at one that is given"
    if {"l", "L"} <= letters:  # the last layer comes after all that the text speaks of
        on = 1 + max(0, *(far for _, letter, far in counted if letter == "l"))
        claims = [_renamed(c, lambda v: moved(v, "L", CODES["l"] + on - CODES["L"])) for c in claims]
    return claims, "what a letter counts: the layers or steps that are spoken of, of a net that is made up"


def _given(claims: list[Claim]) -> tuple[int, set[str]]:
    """The last layer and all names, where the text computes by number what it also counts by a letter: z1 beside z^l."""
    bases = {found[0] for v in _used(claims) if (found := counter(v)) and not v.startswith("δ")}
    computed = {v for v in read(claims).definitions if v[-1:].isdigit() and not counter(v)}
    layers = [_layer(v) for v in computed if v.rstrip("0123456789") in bases]
    return (max(layers), {v for v in _used(claims) if not counter(v)}) if layers else (0, set())


def _layer(v: str) -> int:
    return int(v[len(v.rstrip("0123456789")) :])


def _numbered(claim: Claim, given: set[str]) -> Claim:
    """A claim on layer l at the last given layer that has all its names and another one behind it."""
    counted = [v for v in _used([claim]) if counter(v)]
    inside = [v for v in counted if not v.startswith("δ")] or [v.replace("δ", "z") for v in counted]
    letter = next((found[1] for v in inside if (found := counter(v))), "")
    layers = sorted({_layer(v) for v in given if v[-1:].isdigit()}, reverse=True)
    for n in (*layers[1:], *layers[:1]):
        if inside and all(_at(v, letter, n) in given for v in inside):
            return _renamed(claim, lambda v, n=n: _at(v, letter, n))
    return claim


def _at(v: str, letter: str, layer: int) -> str:
    found = counter(v)
    return f"{found[0]}{layer + found[2]}" if found and found[1] == letter else v


def continued(reading: Reading) -> Reading:
    """The reading with its equations at each layer or step that the text speaks of, and the names that steps share."""
    used = _used(list(reading.claims))
    new = dict(reading.definitions)
    at_layers: dict[str, set[int]] = {}
    for letter in CODES:
        heads = {v: found[2] for v in reading.definitions if (found := counter(v)) and found[1] == letter}
        for far in _spoken_of(reading, letter, heads, used) if heads else ():
            for head, own in heads.items():
                letters, e = reading.definitions[head]
                here = renamed(e, lambda v, letter=letter, by=far - own: moved(v, letter, by))
                new.setdefault(moved(head, letter, far - own), (letters, here))
                for v in names(here):
                    at_layers.setdefault(v, set()).add(far)
    shared = {v: len(layers) for v, layers in at_layers.items() if not counter(v)}
    return reading._replace(definitions=ordered(new), shared=shared)


def _spoken_of(reading: Reading, letter: str, heads: dict[str, int], used: set[str]) -> range:
    """From the first layer of which more is said than what it gives to the next, to the last."""

    def far(names_: set[str]) -> list[int]:
        return [found[2] for v in names_ if (found := counter(v)) and found[1] == letter]

    given = {v for h in heads for v in names(reading.definitions[h][1])} | {v for v in used if v.startswith("x")}
    return range(min([*heads.values(), *far(used - given)]), max(far(used)) + 1)
