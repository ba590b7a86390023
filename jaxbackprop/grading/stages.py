"""Layers and steps that a text counts by a letter, as layers of a network.

    z^l = W^l a^{l-1} + b^l,  a^l = σ(z^l)        and what is said of δ^{l+1}, W^{l+1}, a^{l-1}, z^L

The equations hold at every layer: they are written out at each one that the text speaks of, and what comes in at the
first of them is an input. So is one step of h_t = tanh(W h_{t-1} + U x_t): h_{t-1} comes in, unless the text speaks of
what it was made of. Where the text gives its layers by number, a line on layer l is judged at one of them.

    L = Σ_t L_t        as L_{t-1} + L_t + L_{t+1} + L_{t+2}

In a text that adds up over all steps there are no others, and dL/dW is that of all of them. The last, T, is not t+1: what holds
at the step before the last need not hold at each. Beyond T nothing comes back: the g_{T+1} of g_t = f(g_{t+1}) is 0.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxbackprop.grading.claims import Claim, changed, symbols_of
from jaxbackprop.grading.counters import CODES, counter, moved
from jaxbackprop.grading.expression import Expr, is_ahead, names, nodes, plus, renamed, replace
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.reading import Reading, ordered, read


def _renamed(claim: Claim, new: Callable[[str], str]) -> Claim:
    return changed(claim, lambda e: renamed(e, new))


def _used(claims: list[Claim]) -> set[str]:
    return symbols_of(claims)


FIRST = -1  # of the steps that a sum is over


class Placed(NamedTuple):
    """The claims with the letters that count placed among each other and among layers given by number.

    Attributes:
        claims: the claims.
        words: how they were placed; "" where no letter counts.
        whole: the steps are all there are, as the text adds them up.
        last: a letter that counts -> the letter for the last, and how far on it is.
        end: how far on the last step is.
    """

    claims: list[Claim]
    words: str = ""
    whole: bool = False
    last: Mapping[str, tuple[str, int]] = MappingProxyType({})
    end: int = 0


NOTHING = Placed([])


def placed(claims: list[Claim]) -> Placed:
    """Place the letters that count."""
    counted = [found for v in _used(claims) if (found := counter(v))]
    letters = {letter for _, letter, _ in counted}
    if not letters:
        return Placed(claims)
    last, given = _given(claims)
    on = {letter: max([0, *(far for _, of, far in counted if of == letter)]) for letter in letters}
    last_step = max(1, on.get("t", 0)) + 1
    summed = "t" in letters and any(_adds_steps(n) for c in claims for n in _inside(c))
    if summed:
        steps = range(0) if given else range(FIRST, last_step + 1)
        claims = [_written_out(c, steps) for c in claims]
    if given:
        claims = [_renamed(c, lambda v: _at(_at(v, "L", last), "T", last)) for c in claims]
        return Placed(
            [_numbered(c, given) for c in claims], "layers that a letter counts are judged at one that is given"
        )
    after = {"l": ("L", on.get("l", 0) + 1), "t": ("T", last_step)}  # all that the text speaks of
    after = {letter: (last, far) for letter, (last, far) in after.items() if {letter, last} <= letters}
    for letter, (final, far) in after.items():
        by = CODES[letter] + far - CODES[final]
        claims = [_renamed(c, lambda v, final=final, by=by: moved(v, final, by)) for c in claims]
    of = f"all steps, {last_step - FIRST + 1}," if summed else "the layers or steps that are spoken of,"
    defining = [c for c in claims if isinstance(c.left, Expr) and c.left.op == "name"]
    whole = summed and not any(is_ahead(n) for c in defining for n in _inside(c))
    return Placed(claims, f"what a letter counts: {of} of a net that is made up", whole, after, last_step)


def _inside(claim: Claim) -> Iterator[Expr]:
    return (n for e in (claim.left, claim.right) if isinstance(e, Expr) for n in nodes(e))


def _adds_steps(n: Expr) -> bool:
    """Whether it is a Σ_t, not yet written out."""
    return n.op == "sum" and "t" in n.args[0]


def _written_out(claim: Claim, steps: range) -> Claim:
    """Σ_t f_t as f_{t-1} + f_t + …; not read where the text has steps by number too, nor within another such sum."""
    sums = list(filter(_adds_steps, _inside(claim)))
    if not sums:
        return claim
    if not steps:
        return claim._replace(right=Unread("a sum over steps, of which the text has some by number"), terms=())
    if any(_adds_steps(n) for whole in sums for n in nodes(whole) if n is not whole):
        return claim._replace(right=Unread("a sum over steps within a sum over steps"), terms=())

    def change(n: Expr) -> Expr | None:
        if not _adds_steps(n):
            return None
        letters, body, bound = n.args
        others = tuple(x for x in letters if x != "t")
        total = plus([renamed(body, lambda v, by=by: moved(v, "t", by)) for by in steps])
        return Expr("sum", (others, total, bound)) if others else total

    return changed(claim, lambda e: replace(e, change))


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


def continued(reading: Reading, steps: Placed = NOTHING) -> Reading:
    """The reading with its equations at each layer or step that the text speaks of, and the names that steps share.

    What is said of the last step T holds at no other.
    """
    end = steps.last.get("t", ("", None))[1]
    used = _used(list(reading.claims))
    new, notes = dict(reading.definitions), dict(reading.notes)
    at_layers: dict[str, set[int]] = {}
    for letter in CODES:
        heads = {v: found[2] for v in reading.definitions if (found := counter(v)) and found[1] == letter}
        heads = {v: own for v, own in heads.items() if letter != "t" or own != end}
        for far in _spoken_of(reading, letter, heads, used, steps) if heads else ():
            for v, e in reading.notes.items():
                if (found := counter(v)) and found[1] == letter:
                    by = far - found[2]
                    notes.setdefault(moved(v, letter, by), renamed(e, lambda v, x=letter, by=by: moved(v, x, by)))
            for head, own in heads.items():
                letters, e = reading.definitions[head]
                here = renamed(e, lambda v, letter=letter, by=far - own: moved(v, letter, by))
                new.setdefault(moved(head, letter, far - own), (letters, here))
                for v in names(here):
                    at_layers.setdefault(v, set()).add(far)
    shared = {v: len(layers) for v, layers in at_layers.items() if not counter(v)}
    return reading._replace(definitions=ordered(new), notes=notes, shared=shared, whole=steps.whole)


def _spoken_of(reading: Reading, letter: str, heads: dict[str, int], used: set[str], steps: Placed) -> range:
    """From the first layer of which more is said than what it gives to the next, to the last; all that a sum is over."""
    if steps.whole and letter == "t":
        return range(FIRST, steps.end + 1)

    def far(names_: set[str]) -> list[int]:
        return [found[2] for v in names_ if (found := counter(v)) and found[1] == letter]

    given = {v for h in heads for v in names(reading.definitions[h][1])} | {v for v in used if v.startswith("x")}
    return range(min([*heads.values(), *far(used - given)]), max(far(used)) + 1)
