"""A text's equations one by one, as claims: left = right.

chains --claims_of()--> claims
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jaxbackprop.grading.arrays import is_array
from jaxbackprop.grading.curvature import jet
from jaxbackprop.grading.expression import ONE, Expr, has, names, negated, nodes, symbols
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.lines import Chain
from jaxbackprop.grading.words import GENERIC


class Claim(NamedTuple):
    """One equation: `left = right`, the term before `right` in its chain, and the chain's terms.

    `bare` marks a formula that stands alone; `raw` is what was written on the right; `completed` is the line of code that
    finishes what this one begins, 0 for none; `where` says for which indices it holds, "i ≟ j".
    """

    row: int
    text: str
    left: Expr | Unread
    right: Expr | Unread
    before: Expr | None
    relation: str
    terms: tuple[Expr, ...]
    bare: bool
    raw: str
    completed: int = 0
    where: str = ""

    @property
    def read(self) -> bool:
        """Whether both sides were read, and are all that is said."""
        return not self.completed and isinstance(self.left, Expr) and isinstance(self.right, Expr)


def claims_of(found: Iterable[Chain]) -> list[Claim]:
    """One claim for each link of each chain."""
    claims: list[Claim] = []
    left: Expr | Unread = Unread("nothing stands before it")
    left_text, before, last_terms = "", None, ()
    for chain in found:
        links = list(chain.links)
        if not chain.continues:
            left, left_text, before = links[0].expr, links[0].raw, None
            last_terms = tuple(k.expr for k in links if isinstance(k.expr, Expr))
            links = links[1:]
        for at, link in enumerate(links):
            if at and isinstance(links[at - 1].expr, Unread) and link.relation == "=":  # perhaps of another name
                link = link._replace(expr=Unread("what stands before it was not read"))
            text = link.raw if chain.bare else f"{left_text} {link.relation} {link.raw}".strip()
            terms = last_terms if isinstance(left, Expr) else ()
            if chain.where and isinstance(left, Expr) and isinstance(link.expr, Expr):
                link, terms = link._replace(expr=_there(left, link.expr, chain.where)), ()
                text += f" for {chain.where.replace('≟', '=')}"
            claims.append(
                Claim(
                    chain.row,
                    text,
                    left,
                    link.expr,
                    before,
                    link.relation,
                    terms,
                    chain.bare,
                    link.raw,
                    where=chain.where,
                )
            )
            before = link.expr if isinstance(link.expr, Expr) else None
    return [_turned(c) for c in claims]


def sides_of(claims: Iterable[Claim]) -> list[Expr]:
    """Every side that was read."""
    return [e for c in claims for e in (c.left, c.right) if isinstance(e, Expr)]


def nodes_of(claims: Iterable[Claim]) -> list[Expr]:
    """Every part of every side that was read."""
    return [n for e in sides_of(claims) for n in nodes(e)]


def symbols_of(claims: Iterable[Claim]) -> set[str]:
    """Every name that the claims have, in derivatives too."""
    return {v for e in sides_of(claims) for v in symbols(e) if v}


def said(claims: Iterable[Claim]) -> list[tuple[Expr, Expr]]:
    """Both sides of each claim of which both were read."""
    return [(c.left, c.right) for c in claims if isinstance(c.left, Expr) and isinstance(c.right, Expr)]


def _there(left: Expr, right: Expr, where: str) -> Expr:
    """The right side where it is said to hold, and elsewhere the left: [i = j] right + (1 − [i = j]) left."""
    i, equal, j = where.split()
    here = Expr("delta", (i, j))
    elsewhere = Expr("+", (ONE, negated(here)))
    here, elsewhere = (here, elsewhere) if equal == "≟" else (elsewhere, here)
    return Expr("+", (Expr("product", (here, right)), Expr("product", (elsewhere, left))))


def _turned(claim: Claim) -> Claim:
    """Put the quantity on the left: dL/dz2 * w2 = dL/dh1 is about dL/dh1."""
    left, right = claim.left, claim.right
    quantity = ("derivative", "second", "name", "call")
    if (
        isinstance(left, Expr)
        and isinstance(right, Expr)
        and left.op not in (*quantity, "partial")
        and right.op in quantity[:3]
    ):
        return claim._replace(left=right, right=left)
    return claim


def changed(claim: Claim, change: Callable[[Expr], Expr]) -> Claim:
    """The claim with each of its formulae changed."""
    sides = {k: change(e) for k in ("left", "right", "before") if isinstance(e := getattr(claim, k), Expr)}
    return claim._replace(**sides, terms=tuple(map(change, claim.terms)))


def is_generic(function: str) -> bool:
    """Whether a function is one that stands for any activation: g, φ, f1."""
    return bool(GENERIC.fullmatch(function)) and not function.startswith("σ")


_DERIVES = re.compile(r"[∂d]\s*\w*\s*/|partial|nabla|[∇δ]|\bd\w|\w'")  # a line with these is no forward equation


def may_define(claim: Claim) -> bool:
    """Whether a line that was not read may be a forward equation, or the loss."""
    lost = not (claim.read or claim.bare or claim.completed or is_array(claim.raw))
    return lost and not _DERIVES.search(claim.text)


def is_derived(e: Expr) -> bool:
    """Whether a formula has derivatives, δ among them."""
    return has(e, "derivative", "second", "partial") or any(v.startswith("δ") for v in names(e))


def generic_call(expr: Expr) -> bool:
    """Whether a formula is g(z), of a g that is no known function."""
    return expr.op == "call" and expr.args[0] not in FUNCTIONS and not expr.args[1] and expr.args[2].op == "name"


def is_number(expr: Expr) -> bool:
    """Whether a formula is made of numbers alone."""
    return not symbols(expr) and not has(expr, "derivative", "second", "partial", "delta", "cases")


def number_of(expr: Expr) -> float:
    """The value of a formula of numbers alone."""
    try:
        return jet(expr, {}, lambda function, _: FUNCTIONS[function]).value.item()
    except (KeyError, ValueError):
        return float("nan")
