"""What a text says: its equations one by one, what each name is defined as, and which name is the loss.

chains --claims_of()--> claims --read()--> Reading

A definition is the first equation that computes a name from others. Nothing is judged here, and no number drawn.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.counters import counter, moved
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.expression import (
    ONE,
    Expr,
    UnknownError,
    Variable,
    has,
    has_local,
    name,
    names,
    negated,
    nodes,
    renamed,
    replace,
    symbols,
)
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grammar import Unread, is_array
from jaxbackprop.grading.lines import Chain
from jaxbackprop.grading.words import GENERIC, LOSSES

RESIDUAL = "ẟ"  # what a δ is called that stands for no derivative
OPAQUE = "φ9"  # how a function begins of which nothing is said
Definition = tuple[tuple[str, ...], Expr]  # the index letters of a name, and its formula


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


class Reading(NamedTuple):
    """What a text says.

    Attributes:
        claims: its equations.
        definitions: name -> (its index letters, its formula), in an order in which they can be computed.
        alternatives: name -> other formulae that the text gives it.
        functions: name -> (its variable, its formula).
        notes: names defined by derivatives: d1 = dL/dz2 * w2.
        unread: names whose definition was not read -> (the line, the symbols in it).
        given: names whose numbers are given -> the number.
        rows: name -> the line of its definition.
        loss: the name of the loss; "" where the text has none.
        shared: names that all steps share, W in h_t = tanh(W h_{t-1}) -> at how many steps the text uses it.
        whole: these steps are all there are.
        layout: of derivatives, as the text says: "numerator", "denominator" or "".
    """

    claims: tuple[Claim, ...]
    definitions: dict[str, Definition]
    alternatives: dict[str, list[Expr]]
    functions: dict[str, tuple[str, Expr]]
    notes: dict[str, Expr]
    unread: dict[str, tuple[int, frozenset[str]]]
    given: dict[str, float]
    rows: dict[str, int]
    loss: str
    shared: Mapping[str, int] = MappingProxyType({})
    whole: bool = False
    layout: str = ""

    @property
    def symmetric(self) -> frozenset[str]:
        """Matrices of which A = A^T is said."""
        said = (c.left for c in self.claims if c.left == getattr(c.right, "args", (None,))[0])
        return frozenset(v.args[0] for v in said if isinstance(v, Expr) and v.op == "name")

    @property
    def upstream(self) -> dict[str, float]:
        """Numbers that the text gives for derivatives of the loss: dL/dz = 3."""
        said = [(c.left, c.right) for c in self.claims if isinstance(c.left, Expr) and isinstance(c.right, Expr)]
        return {v.args[1][0]: _number(x) for v, x in said if v.op == "derivative" and not v.args[0][0] and is_number(x)}

    @property
    def free(self) -> list[str]:
        """Inputs, weights, biases, targets: what no definition computes, and definitions need."""
        used = [v for _, e in self.definitions.values() for v in sorted(names(e))]
        return [v for v in dict.fromkeys(used) if v not in self.definitions]

    @property
    def ends(self) -> frozenset[str]:
        """What comes in at the last step of what is computed backward: the g_{T+1} of g_t = f(g_{t+1})."""
        new = self.definitions
        return frozenset(u for v, (_, e) in new.items() if (u := moved(v, "t", 1)) in names(e) - new.keys())

    @property
    def parameters(self) -> frozenset[str]:
        """What derivatives are taken by."""
        sides = [e for c in self.claims for e in (c.left, c.right) if isinstance(e, Expr)]
        return frozenset(n.args[1][0] for e in sides for n in nodes(e) if n.op == "derivative")


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
    if isinstance(left, Expr) and isinstance(right, Expr) and left.op not in quantity and right.op in quantity[:3]:
        return claim._replace(left=right, right=left)
    return claim


def read(claims: list[Claim]) -> Reading:
    """Collect what the claims define.

    >>> from jaxbackprop.grading.lines import chains
    >>> found = read(claims_of(chains("z = w x; h = tanh(z); E = 1/2 (t - h)^2; dE/dh = h - t")))
    >>> list(found.definitions), found.free, found.loss
    (['z', 'h', 'E'], ['w', 'x', 't'], 'E')
    """
    claims, opaque = _with_opaque(_with_parameters(_of_all_entries(_with_residuals(claims))))
    claims = [changed(c, lambda e: replace(e, _product)) for c in _families(_without_letters(claims))]
    claims = [_with_next(c) for c in claims]
    learned = _Learned(definitions=opaque)
    for terms, row in dict.fromkeys((c.terms, c.row) for c in claims if c.terms):
        learned.chain(terms, row)
    _known_slopes(claims, learned.functions)
    claims = [changed(c, lambda e: _by_its_own(e, learned.definitions)) for c in claims]
    _with_formulae(claims, learned)
    unread = _unread(claims, learned.definitions)
    definitions = ordered(_with_steps(_with_arguments(learned.definitions, claims)))
    claims = _with_slopes(claims, {*definitions, *learned.notes, *unread})
    loss = _loss(claims, definitions)
    sides = [e for c in claims for e in (c.left, c.right) if isinstance(e, Expr)]
    tops = {n.args[0][0] for e in sides for n in nodes(e) if n.op in ("derivative", "second")}
    for other in (
        (tops & {*LOSSES}) - {*definitions, *unread, loss} if loss in definitions else ()
    ):  # dL, and loss = ...
        claims = [changed(c, lambda e, other=other: _lossless(e, other)) for c in claims]
    claims = [changed(c, lambda e: _lossless(e, loss)) for c in claims]
    notes = _without_circles({v: _lossless(e, loss) for v, e in learned.notes.items() if v not in definitions})
    return Reading(
        tuple(claims), unread=unread, loss=loss, **vars(learned) | {"definitions": definitions, "notes": notes}
    )


def _unread(claims: list[Claim], definitions: dict[str, Definition]) -> dict[str, tuple[int, frozenset[str]]]:
    """Names whose definition was not read, with its line and what looks like a symbol there."""
    found: dict[str, tuple[int, frozenset[str]]] = {}
    for c in claims:
        if (
            not isinstance(c.right, Unread)
            or not isinstance(c.left, Expr)
            or c.left.op != "name"
            or c.bare
            or not c.raw
            or is_array(c.raw)
        ):
            continue
        v = c.left.args[0]
        if v not in definitions and not v.startswith("δ"):
            found.setdefault(v, (c.row, frozenset(re.findall(r"[A-Za-zͰ-Ͽ]\w*", c.raw.replace("_", "")))))
    return found


def _with_arguments(definitions: dict, claims: list[Claim]) -> dict:
    """h = max(0, x W + b), and dz or δ further down: a name for what the activation acts on."""
    known = {v for u, (_, e) in definitions.items() for v in (u, *names(e))}
    every = [n for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for n in nodes(e)]
    asked = [
        n.args[1][0] for n in every if n.op == "derivative" and re.fullmatch(r"(?:z|Z|a|net|s|u|pre)\w*", n.args[1][0])
    ]
    deltas = [n.args[0][1:] for n in every if n.op == "name" and n.args[0].startswith("δ")]
    counted = {found[:2] for v in known if (found := counter(v))}
    asked = [z for z in dict.fromkeys(asked + [f"z{tag}" for tag in deltas]) if z not in known]
    asked = [z for z in asked if (found := counter(z)) is None or found[:2] not in counted]
    inline = {
        v: (letters, e)
        for v, (letters, e) in definitions.items()
        if (e.op == "call" or (e.op == "reduce" and e.args[0] == "softmax")) and e.args[2].op not in ("name", "number")
    }
    new = dict(definitions)
    for z in asked:
        tag = z[2:] if z.startswith("z_") else re.sub(r"^[A-Za-z]+_?", "", z)
        same = [v for v in inline if tag in (v, re.sub(r"^[A-Za-z]+_?", "", v))] or (
            list(inline) if len(inline) == 1 and len({*deltas}) < 2 else []
        )
        if len(same) == 1 and same[0] in inline:
            _apart(new, same[0], z)
            inline.pop(same[0])
    for v in inline if deltas else ():
        _apart(new, v, f"z_{v}")
    return new


def _apart(definitions: dict[str, Definition], v: str, z: str) -> None:
    """h = g(W x) as h = g(z), with z = W x."""
    letters, e = definitions[v]
    definitions[z] = (letters, e.args[2])
    definitions[v] = (letters, Expr(e.op, (*e.args[:2], name(z, letters))))


def _with_steps(definitions: dict[str, Definition]) -> dict[str, Definition]:
    """yhat = σ(w x + b), and z = w x + b further down: yhat = σ(z)."""
    steps: dict[Expr, Expr] = {}
    for v, (letters, e) in definitions.items():
        if e.op not in ("name", "number") and names(e):
            steps.setdefault(e, name(v, letters))

    def inside(e: Expr) -> Expr:
        return Expr(e.op, tuple(named(a) if isinstance(a, Expr) else a for a in e.args))

    def named(e: Expr) -> Expr:
        new = inside(e)  # a step within a step first
        return steps.get(e) or steps.get(new) or new

    return {v: (letters, inside(e)) for v, (letters, e) in definitions.items()}


def _with_parameters(claims: list[Claim]) -> list[Claim]:
    """Where f(x) = x^n, with another name than x in it, f is a value, and f'(x) its derivative by x; L(a, y) = … too.

    Beside h(x) = w x, h(x_i) is h_i = w x_i; f(u) with another u is f's formula with u in it.
    """
    every = [n for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for n in nodes(e)]
    heads: dict[str, tuple[tuple[Expr, ...], Expr]] = {}
    for c in claims:
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "call" and not c.left.args[1]:
            function, _, *inside = c.left.args
            values = all(a.op == "name" for a in inside) and len({*inside}) == len(inside)
            open_ = len(inside) > 1 or (names(c.right) - {inside[0].args[0]} and not has_local(c.right))
            if len(function) == 1 and function != "σ" and values and open_:
                heads.setdefault(function, (tuple(inside), c.right))
    letters: dict[str, tuple[str, ...]] = {}
    for f, (inside, _) in heads.items():
        calls = {n.args[2:] for n in every if n.op == "call" and n.args[0] == f}
        others = [[a.args for a in call if a.op == "name"] for call in calls if call != inside]
        by = {tuple(dict.fromkeys(x for _, its in call for x in its)) for call in others}
        alike = all([a.args[0] for a in call if a.op == "name"] == [a.args[0] for a in inside] for call in calls)
        families = {n.args[0] for n in every if n.op == "name" and n.args[1]}
        own = tuple(dict.fromkeys(x for a in inside for x in a.args[1]))
        if not own and len(by) == 1 and alike and all(a.args[0] in families for a in inside):
            own = next(iter(by))
        letters[f] = own

    def lettered(e: Expr, inside: tuple[Expr, ...], own: tuple[str, ...]) -> Expr:
        return replace(e, lambda n: name(n.args[0], own) if n in inside and not n.args[1] else None)

    def change(n: Expr) -> Expr | None:
        if n.op != "call" or n.args[0] not in heads or n.args[1] > 2:
            return None
        (f, primes, *given), (inside, body) = n.args, heads[n.args[0]]
        own = letters[f]
        if primes:
            variables = ((f, ()), *(inside[0].args,) * primes)
            return Expr(("derivative", "second")[primes - 1], variables) if given == [*inside] else None
        if tuple(given) in (inside, tuple(name(a.args[0], own) for a in inside)):
            return name(f, own)
        put = dict(zip(inside, given, strict=True)) if len(given) == len(inside) else None
        return put and replace(body, put.get)

    def valued(c: Claim) -> Claim:
        if isinstance(c.left, Expr) and c.left.op == "call" and c.left.args[0] in heads and not c.left.args[1]:
            inside, own = heads[c.left.args[0]][0], letters[c.left.args[0]]
            c = changed(c, lambda e: lettered(e, inside, own)) if own else c
        return changed(c, lambda e: replace(e, change))

    return [valued(c) for c in claims] if heads else claims


def _with_residuals(claims: list[Claim]) -> list[Claim]:
    """Where L = ½ δ² is computed from it, δ is a value like any other, and stands for no derivative."""
    inside = {
        v
        for c in claims
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "name" and c.left.args[0] in LOSSES
        for v in names(c.right)
        if v.startswith("δ")
    }
    return [changed(c, lambda e: renamed(e, lambda v: RESIDUAL + v[1:] if v in inside else v)) for c in claims]


def _known_slopes(claims: Iterable[Claim], functions: dict[str, tuple[str, Expr]]) -> None:
    """f'(z) = f(z) (1 − f(z)) says that f is the sigmoid, f'(z) = 1 − f(z)² that it is tanh."""
    claims = list(claims)
    called = {
        c.left: c.right
        for c in claims
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.right.op == "call"
    }
    z = np.linspace(-2, 2, 9)
    point = Jet(z, np.ones_like(z), np.ones_like(z), np.zeros_like(z))
    for c in claims:
        if not (isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "call" and c.left.args[1] == 1):
            continue
        f, _, argument = c.left.args
        right = replace(c.right, called.get)  # a (1 − a), of a = f(z)
        calls = [n for n in nodes(right) if n.op == "call"]
        own = all(n.args == (f, 0, argument) for n in calls) and calls and argument.op == "name"
        if f in functions or not is_generic(f) or not own:
            continue
        for known in ("sigmoid", "tanh"):
            try:
                slope = jet(right, {argument.args[0]: point}, lambda *_, known=known: FUNCTIONS[known]).value
            except UnknownError:
                continue
            if np.allclose(slope, FUNCTIONS[known].derivative(z)):
                functions[f] = (argument.args[0], Expr("call", (known, 0, argument)))


def _with_formulae(claims: list[Claim], learned: "_Learned") -> None:
    """∂/∂w ‖X w − y‖² of names that no equation has: the formula is a definition too, so that they have a size."""
    known = {*learned.definitions} | {v for _, e in learned.definitions.values() for v in names(e)}
    for c in claims:
        for n in nodes(c.left) if isinstance(c.left, Expr) else ():
            if (
                n.op == "partial"
                and n.args[1][0] in names(n.args[0])
                and not names(n.args[0]) & known
                and not _is_derived(n.args[0])
            ):
                learned.definitions.setdefault("f‹›", ((), n.args[0]))


def _with_opaque(claims: list[Claim]) -> tuple[list[Claim], dict[str, Definition]]:
    """In J = L(W) + ½ λ ‖W‖², L(W) is a value of which nothing is said but what it is a function of; with its definition."""
    every = [n for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for n in nodes(e)]
    heads = {c.left.args[0] for c in claims if isinstance(c.left, Expr) and c.left.op in ("call", "name")}
    called: dict[str, set[tuple]] = {}
    for n in every:
        if n.op == "call" and not n.args[1] and n.args[0] in (*LOSSES, "R", "Ω") and n.args[0] not in heads:
            called.setdefault(n.args[0], set()).add(n.args[2:])
    found: dict[str, Definition] = _by_name(claims, every)
    for f, calls in called.items():
        (given, *more) = calls
        if not more and all(a.op == "name" for a in given):
            letters = tuple(dict.fromkeys(x for a in given for x in a.args[1]))
            parts = [Expr("call", (f"{OPAQUE}{i}", 0, a)) for i, a in enumerate(given)]
            body = Expr("+", tuple(parts)) if len(parts) > 1 else parts[0]
            found[f] = (letters, body if letters else Expr("reduce", ("sum", None, body)))

    def change(n: Expr) -> Expr | None:
        if n.op != "call" or n.args[0] not in found or n.args[1] > 1:
            return None
        variable = (n.args[0], found[n.args[0]][0])
        return Expr("derivative", (variable, n.args[2].args)) if n.args[1] else name(*variable)

    def valued(c: Claim) -> Claim:
        c = changed(c, lambda e: replace(e, change)) if found else c
        lost = [n for n in nodes(c.right) if n.op == "call" and len(n.args) > 3] if isinstance(c.right, Expr) else []
        return c._replace(right=Unread(f"the function {lost[0].args[0]} is not given"), terms=()) if lost else c

    return [valued(c) for c in claims], found


def _by_name(claims: list[Claim], every: list[Expr]) -> dict[str, Definition]:
    """The L of J = L + ½ λ ‖W‖², beside ∂L/∂W: a function of W."""
    heads = {c.left.args[0] for c in claims if isinstance(c.left, Expr) and c.left.op in ("name", "call")}
    inside = {
        v
        for c in claims
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "name" and c.left.args[0] in LOSSES
        if not _is_derived(c.right)
        for v in names(c.right)
    }
    free = (inside & {*LOSSES, "R", "Ω"}) - heads
    by: dict[str, dict[Variable, None]] = {}
    for n in every:
        if n.op == "derivative" and n.args[0][0] in free and n.args[1][0] and not n.args[1][1]:
            by.setdefault(n.args[0][0], {})[n.args[1]] = None
    found: dict[str, Definition] = {}
    for f, bottoms in by.items():
        parts = [
            Expr("reduce", ("sum", None, Expr("call", (f"{OPAQUE}{i}", 0, name(*b))))) for i, b in enumerate(bottoms)
        ]
        found[f] = ((), Expr("+", tuple(parts)) if len(parts) > 1 else parts[0])
    return found


def _with_slopes(claims: list[Claim], known: set[str]) -> list[Claim]:
    """dσ/dx = σ(1 - σ), where σ is a function: σ'(x) = σ(x) (1 - σ(x))."""
    every = [n for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for n in nodes(e)]
    functions = {n.args[0] for n in every if n.op == "call" and n.args[2].op == "name"} - known

    def written_out(claim: Claim) -> Claim:
        sides = [e for e in (claim.left, claim.right) if isinstance(e, Expr)]
        tops = [
            n.args
            for e in sides
            for n in nodes(e)
            if n.op == "derivative" and n.args[0] in [(f, ()) for f in functions]
        ]
        if len(set(tops)) != 1:
            return claim
        (function, _), bottom = tops[0]

        def change(n: Expr) -> Expr | None:
            value = Expr("call", (function, 0, name(*bottom)))
            if n.op == "derivative" and n.args[0] == (function, ()):
                return Expr("call", (function, 1, name(*bottom)))
            return value if n == name(function) else None

        return changed(claim, lambda e: replace(e, change))

    return [written_out(c) for c in claims] if functions else claims


def _with_next(claim: Claim) -> Claim:
    """The v' of δ = r + γ v' − v is another v, and no derivative."""
    if not isinstance(claim.left, Expr) or not isinstance(claim.right, Expr) or claim.left.op != "name":
        return claim

    def other(n: Expr) -> Expr | None:
        return name(f"{n.args[0][0]}'", n.args[0][1]) if n.op == "derivative" and n.args[1] == ("", ()) else None

    alone = not has(replace(claim.right, other), "derivative", "partial")
    return changed(claim, lambda e: replace(e, other)) if alone else claim


_GIVEN = re.compile(r"(?:[xXyYtT]|inputs?|targets?|labels?)\d*|[αληγτεκρ]|lr|[mnNΝBKDd]|data")  # no parameter


def _by_its_own(e: Expr, definitions: Mapping[str, Definition]) -> Expr:
    """y' is the derivative of y by what it is computed from; by x, where that is several."""

    def change(n: Expr) -> Expr | None:
        if n.op != "derivative" or n.args[1] != ("", ()):
            return None
        (y, letters) = n.args[0]
        inside = sorted(names(definitions[y][1])) if y in definitions else []
        above = {*inside}
        while more := {u for v in above if v in definitions for u in names(definitions[v][1])} - above:
            above |= more
        by = (
            inside
            if len(inside) == 1 and not {*inside} & definitions.keys()
            else [v for v in sorted(above) if v == "x"]
        )
        by = by or inside * (len(inside) == 1)
        if y in LOSSES:  # ∇J: by its one parameter
            by = [v for v in sorted(above - definitions.keys()) if not _GIVEN.fullmatch(v)]
            by = by if len(by) == 1 else []
        return Expr("derivative", ((y, letters), (by[0], ()))) if by else None

    return replace(e, change)


def _product(n: Expr) -> Expr | None:
    """σ(1 - σ) is a product, and no call."""
    if n.op == "call" and not n.args[1] and n.args[0] in names(n.args[2]):
        return Expr("product", (name(n.args[0]), replace(n.args[2], _product)))
    return None


def _families(claims: list[Claim]) -> list[Claim]:
    """In L = Σ_i L_i the family is another name than what it adds up to."""
    heads = {
        c.left.args for c in claims if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "name"
    }
    both = {v for v, letters in heads if letters} & {v for v, letters in heads if not letters}
    both = {v for v in both if not v.startswith("δ")}

    def one(variable):
        v, letters = variable
        return (f"{v}‹›", letters) if letters and v in both else variable

    def change(n: Expr) -> Expr | None:
        if n.op == "name":
            return Expr("name", one(n.args))
        return Expr(n.op, tuple(map(one, n.args))) if n.op in ("derivative", "second") else None

    return [changed(c, lambda e: replace(e, change)) for c in claims] if both else claims


def _without_letters(claims: list[Claim]) -> list[Claim]:
    """The L_i of one example, where nothing that it is computed from has an i."""
    said = [(c.left, c.right) for c in claims if isinstance(c.left, Expr) and isinstance(c.right, Expr)]
    alone = {
        v.args
        for v, e in said
        if v.op == "name" and v.args[1] and not v.args[0].startswith("δ")
        if not (is_number(e) or _is_derived(e) or any(n.op in ("name", "delta") and n.args[1] for n in nodes(e)))
    }
    others = {v.args for v, _ in said if v.op == "name"} - alone
    alone = {v for v in alone if v[0] not in {u for u, _ in others}}

    def one(variable):
        return (f"{variable[0]}_{''.join(variable[1])}", ()) if variable in alone else variable

    def change(n: Expr) -> Expr | None:
        if n.op == "name":
            return Expr("name", one(n.args))
        return Expr(n.op, tuple(map(one, n.args))) if n.op in ("derivative", "second") else None

    return [changed(c, lambda e: replace(e, change)) for c in claims] if alone else claims


def _of_all_entries(claims: list[Claim]) -> list[Claim]:
    """Where f(x) = log Σ_i e^{x_i}, f is one number of all entries, and no function that goes entry by entry."""
    heads = {
        c.left.args[0]
        for c in claims
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "call"
        if not c.left.args[1] and c.left.args[0] not in FUNCTIONS and has(c.right, "sum", "reduce")
    }

    def bare(n: Expr) -> Expr | None:
        return name(n.args[0]) if n.op == "call" and n.args[0] in heads and not n.args[1] else None

    return [changed(c, lambda e: replace(e, bare)) for c in claims] if heads else claims


@dataclass(frozen=True)
class _Learned:
    """What the chains of a text define, one after the other; see `Reading`."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    alternatives: dict[str, list[Expr]] = field(default_factory=dict)
    functions: dict[str, tuple[str, Expr]] = field(default_factory=dict)
    notes: dict[str, Expr] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def chain(self, terms: tuple[Expr, ...], row: int) -> None:
        """What a chain such as h0 = g0(z0) = {0, z0 < 0; z0, else} defines."""
        head, values = terms[0], [t for t in terms[1:] if is_number(t)]
        formulae = [t for t in terms[1:] if t.op != "name" and not is_number(t)]
        derived = next((t for t in formulae if _is_derived(t)), None)
        if terms[-1] == name("Ν"):  # m = len(x)
            return
        if head.op == "call":
            self._called(head, terms, row)
        elif head.op == "name" and head.args[0].startswith("δ"):
            if len(terms) > 1 and terms[1].op == "derivative":
                self.notes.setdefault(show_key(head), terms[1])
        elif head.op == "name" and not formulae and values and len(terms) == 2 and not head.args[1]:
            self.given.setdefault(head.args[0], _number(values[0]))
        elif head.op == "name" and derived is not None:
            if head.args[0] not in symbols(derived):
                self.notes.setdefault(show_key(head), derived)
                for x in values[-1:]:
                    self.given.setdefault(head.args[0], _number(x))
        elif head.op == "name":
            self._named(list(dict.fromkeys(t for t in terms if t.op == "name")), formulae, row)

    def _called(self, head: Expr, terms: tuple[Expr, ...], row: int) -> None:
        """g(z) = ...; where g is no letter for an activation it is a value too: f(x) = x^2."""
        function, primes, argument, *_ = head.args
        body = next((t for t in terms[1:] if not _generic_call(t)), None)
        if primes or body is None or argument.op != "name" or function in self.definitions:
            return
        self._function(function, argument.args[0], body)
        if len(function) == 1 and function != "σ" and not has_local(body):
            self.definitions.setdefault(function, ((), body))
            self.rows.setdefault(function, row)

    def _function(self, function: str, variable: str, body: Expr) -> None:
        calls = any(n.op == "call" and n.args[0] not in FUNCTIONS and n.args[0] != "σ" for n in nodes(body))
        if names(body) <= {variable} and not calls and function not in FUNCTIONS:
            self.functions.setdefault(function, (variable, body))

    def _named(self, bare: list[Expr], formulae: list[Expr], row: int) -> None:
        """h = g(z) = ...: names and the formulae that they are equal to."""
        formula = self._applied(bare, formulae)
        inside = {v for t in formulae for v in names(t)}
        anchor = next((v for v in bare if v.args[0] not in inside), None)
        if formula is not None and anchor is not None and anchor.args[0] not in names(formula):
            text, letters = anchor.args
            self._define(text, letters, formula, row)
        known = {v.args[0] for v in bare if v.args[0] in self.definitions} | inside
        first = next((v for v in bare if v.args[0] in known), bare[-1])
        for other in bare:
            if other.args[0] not in known and other != first and other.args[0] not in self.definitions:
                self.definitions[other.args[0]] = (other.args[1], first)  # another name of it
                self.rows[other.args[0]] = row

    def _applied(self, bare: list[Expr], formulae: list[Expr]) -> Expr | None:
        """The formula that defines a name: a call of an activation, if there is one, whose own formula is learnt."""
        calls = [t for t in formulae if _generic_call(t)]
        concrete = [t for t in formulae if not _generic_call(t)]
        for call in calls:
            variable = call.args[2].args[0]
            own = next((t for t in concrete if names(t) == {variable}), None)
            if own is None and any(t.args[0] == variable for t in bare[1:]):
                own = name(variable)
            if own is not None:
                self._function(call.args[0], variable, own)
        head = bare[0].args[0]
        by_cases = bool(concrete) and not calls and concrete[0].op == "cases" and len(names(concrete[0])) == 1
        if by_cases and re.fullmatch(r"[ahAH]\d*|yhat", head):  # give it a name, so that its derivative has one
            (variable,) = names(concrete[0])
            self._function(f"g_{head}", variable, concrete[0])
            return Expr("call", (f"g_{head}", 0, name(variable)))
        return next(iter(calls + concrete), None)

    def _define(self, text: str, letters: tuple[str, ...], formula: Expr, row: int) -> None:
        if text not in self.definitions:
            self.definitions[text] = (letters, formula)
            self.rows[text] = row
            return
        own, first = self.definitions[text]
        if _in_steps(first, formula, self.definitions):
            self.definitions[text], formula = (own, formula), first
        self.alternatives.setdefault(text, []).append(formula)


def _is_derived(e: Expr) -> bool:
    """Whether a formula has derivatives, δ among them."""
    return has(e, "derivative", "second", "partial") or any(v.startswith("δ") for v in names(e))


def _in_steps(whole: Expr, formula: Expr, definitions) -> bool:
    """Whether a formula says the same in steps that are named: f = (x + y) z, then q = x + y and f = q z."""
    steps = names(formula) & definitions.keys()
    inside = (names(formula) - steps).union(*(names(definitions[v][1]) for v in steps))
    return bool(steps) and not names(whole) & definitions.keys() and inside <= names(whole)


def show_key(variable: Expr) -> str:
    """A name with its letters, as a key of `notes`."""
    return variable.args[0] + "".join(variable.args[1])


def _generic_call(expr: Expr) -> bool:
    return expr.op == "call" and expr.args[0] not in FUNCTIONS and not expr.args[1] and expr.args[2].op == "name"


def is_number(expr: Expr) -> bool:
    """Whether a formula is made of numbers alone."""
    return not symbols(expr) and not has(expr, "derivative", "second", "partial", "delta", "cases")


def _number(expr: Expr) -> float:
    try:
        return jet(expr, {}, lambda function, _: FUNCTIONS[function]).value.item()
    except (KeyError, ValueError):
        return float("nan")


def ordered(definitions: dict[str, Definition]) -> dict[str, Definition]:
    """Definitions whose variables are known come first; those in a circle are left out."""
    needs = {v: set(names(e)) for v, (_, e) in definitions.items()}
    done: dict[str, Definition] = {}
    while needs:
        ready = [v for v, used in needs.items() if not used & needs.keys()]
        if not ready:
            needs.pop(next((v for v, used in needs.items() if v in used), next(iter(needs))))
        for v in ready:
            needs.pop(v)
            done[v] = definitions[v]
    return done


def _without_circles(notes: dict[str, Expr]) -> dict[str, Expr]:
    kept: dict[str, Expr] = {}
    for symbol, expr in notes.items():
        if not (names(expr) & notes.keys()) - kept.keys():
            kept[symbol] = expr
    return kept


def _loss(claims: list[Claim], definitions: dict) -> str:
    """The scalar whose derivatives are taken: of what nothing else is computed from, the one most often on top."""
    tops: dict[str, int] = {}
    for c in claims:
        for side in (c.left, c.right):
            if isinstance(side, Expr):
                for n in nodes(side):
                    if n.op in ("derivative", "second") and n.args[0][0]:
                        tops[n.args[0][0]] = tops.get(n.args[0][0], 0) + 1
    used = {v for _, e in definitions.values() for v in names(e)}
    lost = [v for v in tops if v in LOSSES and v not in used]
    sinks = [v for v in tops if v in definitions and v not in used and len(definitions[v][0]) == 0]
    stated = [v for v in definitions if v in LOSSES and v not in used]
    ones = [
        c.left.args[1][0]
        for c in claims
        if isinstance(c.right, Expr) and c.right.op == "number" and c.right.args[0] == 1
        if isinstance(c.left, Expr) and c.left.op == "derivative" and c.left.args[0][0] in ("", *LOSSES)
    ]
    begun = [v for v in ones if v in definitions and v not in used]  # do = 1: of o the derivatives are
    one = stated if len(stated) == 1 else []  # loss = ..., beside dL_dout
    for group in ([v for v in lost if v in definitions], one, lost, stated, begun, sinks):
        if group:
            best = max(group, key=lambda v: (tops.get(v, 0), v in definitions))
            return best if not (group is sinks and best == "yhat") else ""
    return ""


def _lossless(expr: Expr, loss: str) -> Expr:
    """Write dE/dz as the derivative of the loss, where E is the loss."""

    def change(node: Expr) -> Expr | None:
        if loss and node.op in ("derivative", "second") and node.args[0] == (loss, ()):
            return Expr(node.op, (("", ()), *node.args[1:]))
        return None

    return replace(expr, change)


def formulae_of(reading: Reading) -> list[Expr]:
    """Those of its definitions, and both sides of its claims."""
    sides = [e for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr)]
    return [*(e for _, e in reading.definitions.values()), *sides]


def with_names(reading: Reading, new) -> Reading:
    """The reading with every name replaced by `new(name)`."""
    return reading._replace(claims=tuple(changed(c, lambda e: renamed(e, new)) for c in reading.claims))


_DERIVES = re.compile(r"[∂d]\s*\w*\s*/|partial|nabla|[∇δ]|\bd\w|\w'")  # a line with these is no forward equation


def may_define(claim: Claim) -> bool:
    """Whether a line that was not read may be a forward equation, or the loss."""
    lost = not (claim.read or claim.bare or claim.completed or is_array(claim.raw))
    return lost and not _DERIVES.search(claim.text)


def changed(claim: Claim, change: Callable[[Expr], Expr]) -> Claim:
    """The claim with each of its formulae changed."""
    sides = {k: change(e) for k in ("left", "right", "before") if isinstance(e := getattr(claim, k), Expr)}
    return claim._replace(**sides, terms=tuple(map(change, claim.terms)))


def is_generic(function: str) -> bool:
    """Whether a function is one that stands for any activation: g, φ, f1."""
    return bool(GENERIC.fullmatch(function)) and not function.startswith("σ")
