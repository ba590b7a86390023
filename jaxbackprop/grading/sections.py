"""The parts of a text, where it begins anew: y = x², dy/dx = 2x, and below it y = sin x, dy/dx = cos x.

A part begins where a name that was defined, and derived by or of, is defined as something else: after a blank line, a heading or
words, at an item or a row of a table, or by another kind of formula. What it does not define anew it has from the parts above.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.claims import Claim, is_number
from jaxbackprop.grading.expression import Expr, has, names, nodes
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.updates import is_update

MOST = 40  # parts; a text with more is judged as one
_ITEM = re.compile(
    r"\s*(?:[-*+•#>|]|\(?(?:\d{1,2}|[a-h]|[ivx]{1,3})[.)]|\[?\d\]|[A-Z][\w ]*:"
    r"|(?:Part|Teil|Aufgabe|Exercise|Problem|Question|Partie|Parte|With|For|Case|Mit|Für|Avec)\b)"
)


class Part(NamedTuple):
    """Claims that are judged together, and the definitions above them that they may need."""

    context: list[Claim]
    own: list[Claim]


def parts(claims: list[Claim], text: str) -> list[Part]:
    """The claims part by part, in order."""
    rows = text.split("\n")
    alone = [isinstance(c.left, Expr) and isinstance(c.right, Expr) and _has_partial(c) for c in claims]
    if len(claims) > 1 and all(alone) and len({c.row for c in claims}) <= MOST:  # identities, each of its own matrices
        return [Part([], [c for c in claims if c.row == row]) for row in dict.fromkeys(c.row for c in claims)]
    starts = [0]
    known: dict[str, tuple[Expr, int]] = {}
    stepped = False
    computed = {_defined(c) for c in claims}
    for i, c in enumerate(claims):
        step = _is_step(claims, i, computed)
        if stepped and not step:  # w has a new value
            starts.append(i)
        stepped = step and any(_is_given(b) and b.left == c.left for b in claims[:i])
        v = _defined(c) or _unread(c)
        if not v:
            continue
        old = known.get(v)
        if old is not None and _anew(claims, old, i, rows) and not any(claims[s].row == c.row for s in starts[1:]):
            first = next(j for j, b in enumerate(claims) if b.row == c.row)
            starts.append(first)
            known = {u: d for u, d in known.items() if u != v}
        known.setdefault(v, (c.right, i))  # type: ignore[arg-type]
    if not 1 < len(starts) <= MOST:
        return [Part([], claims)]
    found = []
    for start, end in zip(starts, [*starts[1:], len(claims)], strict=True):
        own = claims[start:end]
        mine = {_defined(c) or _unread(c) for c in own}
        above = {v: c for c in claims[:start] if (v := _defined(c)) and v not in mine}
        numbers = {c.left: c for c in claims[:start] if _is_given(c) and c.left.args[0] not in {*mine, *above}}  # type: ignore[union-attr]
        found.append(Part([*above.values(), *(c._replace(terms=(c.left, c.right)) for c in numbers.values())], own))
    return found


def _has_partial(claim: Claim) -> bool:
    """Whether a claim derives a formula: ∂ tr(X A)/∂X = Aᵀ."""
    return any(has(e, "partial") for e in (claim.left, claim.right) if isinstance(e, Expr))


def _is_step(claims: list[Claim], i: int, computed: set[str]) -> bool:
    """Whether a claim is of a step of the training, w = w − η dL/dw = 0.6."""
    c = claims[i]
    if _is_given(c) and c.left.args[0] not in computed:  # type: ignore[union-attr]  # w = 1 - 0.1 * 2 = 0.8, where w was 1
        said = next((k for k, b in enumerate(claims[:i]) if _is_given(b) and b.left == c.left), i)
        return any(_derives(b) for b in claims[said:i]) and claims[said].right != c.right
    row = [b.right for b in claims if b.row == c.row and b.left == c.left]
    return isinstance(c.left, Expr) and any(is_update(c.left, e) for e in row if isinstance(e, Expr))


def _is_given(claim: Claim) -> bool:
    """Whether a claim says which number a name is."""
    left, right = claim.left, claim.right
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return False
    return left.op == "name" and not left.args[1] and is_number(right)


def _defined(claim: Claim) -> str:
    """The name that a claim computes from others; "" for none."""
    left, right = claim.left, claim.right
    if not claim.read or claim.bare or not isinstance(left, Expr) or not isinstance(right, Expr):
        return ""
    head = left.args[0] if left.op == "name" or (left.op == "call" and not left.args[1]) else ""
    plain = not is_number(right) and not has(right, "derivative", "second", "partial")
    return head if head and plain and head not in names(right) and not head.startswith("δ") else ""


def _unread(claim: Claim) -> str:
    """The name of which a definition was not read: it ends what was said of it before; "" for none."""
    lost = isinstance(claim.right, Unread) and claim.raw and not claim.bare and not claim.completed
    return claim.left.args[0] if lost and isinstance(claim.left, Expr) and claim.left.op == "name" else ""


def _anew(claims: list[Claim], old: tuple[Expr, int], i: int, rows: list[str]) -> bool:
    """Whether a definition is no other way to say the one before."""
    before, at = old
    new = claims[i].right
    if claims[i].row == claims[at].row or not isinstance(before, Expr) or _open(before):
        return False
    if isinstance(new, Unread):
        return any(_derives(c) for c in claims[at:i])
    if new == before or _open(new):
        return False
    if not any(_derives(c) for c in claims[at:i]) or not any(_derives(c) for c in claims[i:]):
        return False
    rows_that_derive = {c.row for c in claims if _derives(c)}
    if {claims[at].row, claims[i].row} <= rows_that_derive:  # f(z) = z², f'(z) = 2z
        return True
    apart = claims[i].row - claims[i - 1].row > 1 or _ITEM.match(rows[claims[i].row - 1]) is not None
    return apart or new.op != before.op


def _open(e: Expr) -> bool:
    """Whether it leaves open what it is: another name, or an activation without a formula."""
    return e.op == "name" or (e.op == "call" and e.args[0] not in FUNCTIONS and not e.args[0].startswith("σ"))


def _derives(claim: Claim) -> bool:
    sides = [e for e in (claim.left, claim.right) if isinstance(e, Expr)]
    return any(n.op in ("derivative", "partial") or (n.op == "call" and n.args[1]) for e in sides for n in nodes(e))
