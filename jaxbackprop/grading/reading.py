"""What a text says: its equations one by one, what each name is defined as, and which name is the loss.

chains --claims_of()--> claims --read()--> Reading

A definition is the first equation that computes a name from others. Nothing is judged here, and no number drawn.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxbackprop.grading.expression import Expr, has, has_local, name, names, nodes, renamed, replace, symbols
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.lines import Chain
from jaxbackprop.grading.notation import GENERIC, LOSSES
from jaxbackprop.grading.values import Scope, apply, evaluate


class Claim(NamedTuple):
    """One equation: `left = right`, the term before `right` in its chain, and the chain's terms.

    `bare` marks a formula that stands alone; `raw` is what was written on the right.
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

    @property
    def read(self) -> bool:
        """Whether both sides were read."""
        return isinstance(self.left, Expr) and isinstance(self.right, Expr)


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
    """

    claims: tuple[Claim, ...]
    definitions: dict[str, tuple[tuple[str, ...], Expr]]
    alternatives: dict[str, list[Expr]]
    functions: dict[str, tuple[str, Expr]]
    notes: dict[str, Expr]
    unread: dict[str, tuple[int, frozenset[str]]]
    given: dict[str, float]
    rows: dict[str, int]
    loss: str
    shared: Mapping[str, int] = MappingProxyType({})

    @property
    def free(self) -> list[str]:
        """Inputs, weights, biases, targets: what no definition computes, and definitions need."""
        used = [v for _, e in self.definitions.values() for v in sorted(names(e))]
        return [v for v in dict.fromkeys(used) if v not in self.definitions]


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
        for link in links:
            text = link.raw if chain.bare else f"{left_text} {link.relation} {link.raw}".strip()
            terms = last_terms if isinstance(left, Expr) else ()
            claims.append(Claim(chain.row, text, left, link.expr, before, link.relation, terms, chain.bare, link.raw))
            before = link.expr if isinstance(link.expr, Expr) else None
    return [_turned(c) for c in claims]


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
    claims = _of_all_entries(claims)
    definitions: dict[str, tuple[tuple[str, ...], Expr]] = {}
    alternatives: dict[str, list[Expr]] = {}
    functions: dict[str, tuple[str, Expr]] = {}
    notes: dict[str, Expr] = {}
    unread: dict[str, tuple[int, frozenset[str]]] = {}
    given: dict[str, float] = {}
    rows: dict[str, int] = {}
    for terms, row in dict.fromkeys((c.terms, c.row) for c in claims if c.terms):
        _learn(terms, row, definitions, alternatives, functions, notes, given, rows)
    for c in claims:
        head = c.left
        if isinstance(c.right, Unread) and isinstance(head, Expr) and head.op == "name" and not c.bare and c.raw:
            found = frozenset(re.findall(r"[A-Za-zͰ-Ͽ]\w*", c.raw.replace("_", "")))
            if head.args[0] not in definitions and not head.args[0].startswith("δ"):
                unread.setdefault(head.args[0], (c.row, found))
    definitions = ordered(_with_arguments(definitions, claims))
    claims = _with_slopes(claims, {*definitions, *notes, *unread})
    loss = _loss(claims, definitions)
    claims = [_with_loss(c, loss) for c in claims]
    notes = {v: _lossless(e, loss) for v, e in notes.items() if v not in definitions}
    notes = _without_circles(notes)
    return Reading(tuple(claims), definitions, alternatives, functions, notes, unread, given, rows, loss)


def _with_arguments(definitions: dict, claims: list[Claim]) -> dict:
    """h = max(0, x W + b), and dz further down: a name for what the activation acts on."""
    known = {v for u, (_, e) in definitions.items() for v in (u, *names(e))}
    asked = {
        n.args[1][0]: n.args[1][1] for c in claims for e in (c.left, c.right) if isinstance(e, Expr) for n in nodes(e)
        if n.op == "derivative" and n.args[1][0] not in known and re.fullmatch(r"(?:z|Z|a|net|s|u|pre)\w*", n.args[1][0])
    }  # fmt: skip
    inline = {v: d for v, d in definitions.items() if d[1].op == "call" and d[1].args[2].op not in ("name", "number")}
    new = dict(definitions)
    for z in asked:
        tag = re.sub(r"^[A-Za-z]+_?", "", z)
        same = [v for v in inline if re.sub(r"^[A-Za-z]+_?", "", v) == tag] or (
            list(inline) if len(inline) == 1 else []
        )
        if len(same) == 1 and same[0] in inline:
            letters, e = inline.pop(same[0])
            new[z] = (letters, e.args[2])
            new[same[0]] = (letters, Expr("call", (*e.args[:2], name(z, letters))))
    return new


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
            if n.op == "call" and n.args[:2] == (function, 0) and function in names(n.args[2]):  # σ(1 - σ) is a product
                return Expr("product", (value, replace(n.args[2], change)))
            return value if n == name(function) else None

        return changed(claim, lambda e: replace(e, change))

    return [written_out(c) for c in claims] if functions else claims


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


def _learn(terms, row, definitions, alternatives, functions, notes, given, rows) -> None:
    """What a chain such as h0 = g0(z0) = {0, z0 < 0; z0, else} defines."""
    head = terms[0]
    if head.op == "call":
        function, primes, *arguments = head.args
        body = next((t for t in terms[1:] if not _generic_call(t)), None)
        if not primes and body is not None and arguments[0].op == "name" and function not in definitions:
            _learn_function(functions, function, arguments[0].args[0], body)
            if len(function) == 1 and function != "σ" and not has_local(body):
                definitions.setdefault(function, ((), body))
                rows.setdefault(function, row)
        return
    if head.op != "name" or head.args[0].startswith("δ"):
        if head.op == "name" and len(terms) > 1 and terms[1].op == "derivative":
            notes.setdefault(show_key(head), terms[1])
        return
    values = [t for t in terms[1:] if is_number(t)]
    formulae = [t for t in terms[1:] if t.op != "name" and not is_number(t)]
    if not formulae and values and len(terms) == 2 and not head.args[1]:
        given.setdefault(head.args[0], _number(values[0]))
        return
    if any(has(t, "derivative", "second", "partial") for t in formulae):
        first = next(t for t in formulae if has(t, "derivative", "second", "partial"))
        if head.args[0] not in symbols(first):
            notes.setdefault(show_key(head), first)
        return
    bare = list(dict.fromkeys(t for t in terms if t.op == "name"))
    _define(bare, formulae, row, definitions, alternatives, functions, rows)


def _define(bare, formulae, row, definitions, alternatives, functions, rows) -> None:
    calls = [t for t in formulae if _generic_call(t)]
    concrete = [t for t in formulae if not _generic_call(t)]
    for call in calls:
        variable = call.args[2].args[0]
        own = next((t for t in concrete if names(t) == {variable}), None)
        if own is None and any(t.args[0] == variable for t in bare[1:]):
            own = name(variable)
        if own is not None:
            _learn_function(functions, call.args[0], variable, own)
    head = bare[0]
    if (
        concrete
        and not calls
        and concrete[0].op == "cases"
        and len(names(concrete[0])) == 1
        and re.fullmatch(r"[ahAH]\d*|yhat", head.args[0])
    ):
        # an activation that is written out: give it a name, so that its derivative has one
        variable = next(iter(names(concrete[0])))
        _learn_function(functions, f"g_{head.args[0]}", variable, concrete[0])
        calls, concrete = [Expr("call", (f"g_{head.args[0]}", 0, name(variable)))], concrete[1:]
    formula = next(iter(calls), None) or next(iter(concrete), None)
    inside = {v for t in formulae for v in names(t)}
    anchor = next((v for v in bare if v.args[0] not in inside), None)
    if formula is not None and anchor is not None and anchor.args[0] not in names(formula):
        if anchor.args[0] in definitions:
            letters, first = definitions[anchor.args[0]]
            if _in_steps(first, formula, definitions):
                definitions[anchor.args[0]], formula = (letters, formula), first
            alternatives.setdefault(anchor.args[0], []).append(formula)
        else:
            definitions[anchor.args[0]] = (anchor.args[1], formula)
            rows[anchor.args[0]] = row
    known = {v.args[0] for v in bare if v.args[0] in definitions} | inside
    first = next((v for v in bare if v.args[0] in known), bare[-1])
    for other in bare:
        if other.args[0] not in known and other != first and other.args[0] not in definitions:
            definitions[other.args[0]] = (other.args[1], first)  # another name of it
            rows[other.args[0]] = row


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


def _learn_function(functions, function: str, variable: str, body: Expr) -> None:
    calls = [n for n in nodes(body) if n.op == "call" and n.args[0] not in FUNCTIONS]
    if names(body) <= {variable} and not calls and function not in FUNCTIONS:
        functions.setdefault(function, (variable, body))


def is_number(expr: Expr) -> bool:
    """Whether a formula is made of numbers alone."""
    return not symbols(expr) and not has(expr, "derivative", "second", "partial", "delta", "cases")


def _number(expr: Expr) -> float:

    def leaf(e: Expr):

        return apply(FUNCTIONS[e.args[0]], evaluate(e.args[2], scope))

    scope = Scope(leaf, {})
    try:
        return float(evaluate(expr, scope).array.ravel()[0])
    except (KeyError, ValueError, IndexError):
        return float("nan")


def ordered(definitions: dict[str, tuple[tuple[str, ...], Expr]]) -> dict[str, tuple[tuple[str, ...], Expr]]:
    """Definitions whose variables are known come first; those in a circle are left out."""
    needs = {v: set(names(e)) for v, (_, e) in definitions.items()}
    done: dict[str, tuple[tuple[str, ...], Expr]] = {}
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
    for group in ([v for v in lost if v in definitions], lost, stated, sinks):
        if group:
            best = max(group, key=lambda v: (tops.get(v, 0), v in definitions))
            return best if not (group is sinks and best == "yhat") else ""
    return ""


def _with_loss(claim: Claim, loss: str) -> Claim:
    return changed(claim, lambda e: _lossless(e, loss))


def _lossless(expr: Expr, loss: str) -> Expr:
    """Write dE/dz as the derivative of the loss, where E is the loss."""

    def change(node: Expr) -> Expr | None:
        if loss and node.op in ("derivative", "second") and node.args[0] == (loss, ()):
            return Expr(node.op, (("", ()), *node.args[1:]))
        return None

    return replace(expr, change)


def with_names(reading: Reading, new) -> Reading:
    """The reading with every name replaced by `new(name)`."""
    return reading._replace(claims=tuple(changed(c, lambda e: renamed(e, new)) for c in reading.claims))


def changed(claim: Claim, change: Callable[[Expr], Expr]) -> Claim:
    """The claim with each of its formulae changed."""
    sides = {k: change(e) for k in ("left", "right", "before") if isinstance(e := getattr(claim, k), Expr)}
    return claim._replace(**sides, terms=tuple(map(change, claim.terms)))


def is_generic(function: str) -> bool:
    """Whether a function is one that stands for any activation: g, φ, f1."""
    return bool(GENERIC.fullmatch(function)) and not function.startswith("σ")
