"""What a text says: what each name is defined as, and which name is the loss.

claims --read()--> Reading

A definition is the first equation that computes a name from others. Nothing is judged here, and no number drawn.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.arrays import array_of, is_array
from jaxbackprop.grading.claims import (
    Claim,
    changed,
    generic_call,
    is_derived,
    is_number,
    nodes_of,
    number_of,
    said,
    sides_of,
)
from jaxbackprop.grading.counters import counter, moved
from jaxbackprop.grading.expression import (
    ONE,
    Expr,
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
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.meanings import Definition, by_its_own, known_slopes, meant, with_slopes
from jaxbackprop.grading.words import EVERY, LOSSES


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
        arrays: names whose numbers are given as a vector or a matrix -> these.
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
    arrays: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def symmetric(self) -> frozenset[str]:
        """Matrices of which A = A^T is said."""
        equal = (c.left for c in self.claims if c.right == Expr("transpose", (c.left,)))
        return frozenset(v.args[0] for v in equal if isinstance(v, Expr) and v.op == "name")

    @property
    def upstream(self) -> dict[str, float]:
        """Numbers that the text gives for derivatives of the loss: dL/dz = 3."""
        return {
            v.args[1][0]: number_of(x)
            for v, x in said(self.claims)
            if v.op == "derivative" and not v.args[0][0] and is_number(x)
        }

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
        sides = sides_of(self.claims)
        return frozenset(n.args[1][0] for e in sides for n in nodes(e) if n.op == "derivative")


def read(claims: list[Claim]) -> Reading:
    """Collect what the claims define.

    >>> from jaxbackprop.grading.claims import claims_of
    >>> from jaxbackprop.grading.lines import chains
    >>> found = read(claims_of(chains("z = w x; h = tanh(z); E = 1/2 (t - h)^2; dE/dh = h - t")))
    >>> list(found.definitions), found.free, found.loss
    (['z', 'h', 'E'], ['w', 'x', 't'], 'E')
    """
    claims, opaque = meant(claims)
    learned = _Learned(definitions=opaque)
    for terms, row in dict.fromkeys((c.terms, c.row) for c in claims if c.terms):
        if not _is_solution(terms, row, claims, learned.definitions):
            learned.chain(terms, row)
    learned.functions.update(known_slopes(claims, learned.functions))
    every = (n for c in claims if isinstance(c.right, Expr) for n in nodes(c.right))
    for f in {n.args[0] for n in every if n.op == "call" and not n.args[1]} & learned.functions.keys():
        learned.definitions.pop(f, None)  # h = f(z): an activation, and no value
        learned.rows.pop(f, None)
    claims = [changed(c, lambda e: by_its_own(e, learned.definitions)) for c in claims]
    _with_formulae(claims, learned)
    unread = _unread(claims, learned.definitions)
    definitions = ordered(_with_steps(_with_arguments(learned.definitions, claims)))
    claims = with_slopes(claims, {*definitions, *learned.notes, *unread})
    loss = _loss(claims, definitions)
    sides = sides_of(claims)
    tops = {n.args[0][0] for e in sides for n in nodes(e) if n.op in ("derivative", "second")}
    for other in (
        (tops & {*LOSSES}) - {*definitions, *unread, loss} if loss in definitions else ()
    ):  # dL, and loss = ...
        claims = [changed(c, lambda e, other=other: _lossless(e, other)) for c in claims]
    claims = [changed(c, lambda e: _lossless(e, loss)) for c in claims]
    notes = _without_circles({v: _lossless(e, loss) for v, e in learned.notes.items() if v not in definitions})
    return Reading(
        tuple(claims),
        unread=unread,
        loss=loss,
        arrays=_arrays(claims, definitions),
        **vars(learned) | {"definitions": definitions, "notes": notes},
    )


def _arrays(claims: list[Claim], definitions: dict[str, Definition]) -> dict[str, np.ndarray]:
    """x = [1, 2], W = [[1, 0], [2, 1]]: the numbers of what no equation computes."""
    found: dict[str, np.ndarray] = {}
    for c in claims:
        if isinstance(c.left, Expr) and c.left.op == "name" and not c.left.args[1] and isinstance(c.right, Unread):
            numbers = array_of(c.raw)
            if numbers is not None and c.left.args[0] not in definitions:
                found.setdefault(c.left.args[0], numbers.entries)
    return found


def _is_solution(terms: tuple[Expr, ...], row: int, claims: list[Claim], definitions: dict[str, Definition]) -> bool:
    """w = (Xᵀ X)⁻¹ Xᵀ y, below f = ‖X w − y‖²: of nothing but what f is made of, it says where a derivative is 0."""
    head, used = terms[0], [names(e) for _, e in definitions.values()]
    if head.op != "name" or head.args[1] or head.args[0] in definitions or len(terms) < 2:
        return False
    v, inside = head.args[0], names(terms[-1])
    of = {u for its in used for u in its if v in its}
    above = nodes_of(c for c in claims if c.row < row)
    asked = any(n.op == "derivative" and n.args[1][0] in (v, "") for n in above)
    inverted = any(n.op == "^" and n.args[1] == negated(ONE) for n in nodes(terms[-1]))
    return v in of and bool(inside) and inside <= of | {*EVERY, "I"} - {v} and (asked or inverted)


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
            or "random." in c.raw
        ):
            continue
        v = c.left.args[0]
        if v not in definitions and not v.startswith("δ"):
            found.setdefault(v, (c.row, frozenset(re.findall(r"[A-Za-zͰ-Ͽ]\w*", c.raw.replace("_", "")))))
    return found


def _with_arguments(definitions: dict, claims: list[Claim]) -> dict:
    """h = max(0, x W + b), and dz or δ further down: a name for what the activation acts on."""
    known = {v for u, (_, e) in definitions.items() for v in (u, *names(e))}
    every = nodes_of(claims)
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
    definitions = _one_after_another(definitions)

    def inside(e: Expr) -> Expr:
        return Expr(e.op, tuple(named(a) if isinstance(a, Expr) else a for a in e.args))

    def named(e: Expr) -> Expr:
        new = inside(e)  # a step within a step first
        return steps.get(e) or steps.get(new) or new

    return {v: (letters, inside(e)) for v, (letters, e) in definitions.items()}


def _one_after_another(definitions: dict[str, Definition]) -> dict[str, Definition]:
    """yhat = W h, L = ½ (yhat − y)², z = W h: yhat = z, so that each of them leads to the loss."""
    used = {u for _, e in definitions.values() for u in names(e)}
    alike: dict[Definition, list[str]] = {}
    for v, (letters, e) in sorted(definitions.items(), key=lambda d: d[0] not in used):
        if e.op not in ("name", "number") and names(e):
            alike.setdefault((letters, e), []).append(v)
    pairs = [(v, name(u, letters)) for (letters, _), of in alike.items() for v, u in pairwise(of)]
    return definitions | {v: (definitions[v][0], u) for v, u in pairs}


def _with_formulae(claims: list[Claim], learned: "_Learned") -> None:
    """∂/∂w ‖X w − y‖² of names that no equation has: the formula is a definition too, so that they have a size."""
    known = {*learned.definitions} | {v for _, e in learned.definitions.values() for v in names(e)}
    for c in claims:
        for n in nodes_of([c]):
            if (
                n.op == "partial"
                and n.args[1][0] in names(n.args[0])
                and n.args[1][0] not in known
                and not is_derived(n.args[0])
            ):
                learned.definitions.setdefault(f"f‹{n.args[1][0]}›", ((), n.args[0]))


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
        derived = next((t for t in formulae if is_derived(t) or names(t) & self.notes.keys()), None)
        if terms[-1] == name("Ν"):  # m = len(x)
            return
        if head.op == "call":
            self._called(head, terms, row)
        elif head.op == "name" and head.args[0].startswith("δ"):
            if len(terms) > 1 and terms[1].op == "derivative":
                self.notes.setdefault(show_key(head), terms[1])
        elif head.op == "name" and not formulae and values and len(terms) == 2 and not head.args[1]:
            self.given.setdefault(head.args[0], number_of(values[0]))
        elif head.op == "name" and derived is not None:
            if head.args[0] not in symbols(derived):
                self.notes.setdefault(show_key(head), derived)
                for x in values[-1:]:
                    self.given.setdefault(head.args[0], number_of(x))
        elif head.op == "name":
            self._named(list(dict.fromkeys(t for t in terms if t.op == "name")), formulae, row)

    def _called(self, head: Expr, terms: tuple[Expr, ...], row: int) -> None:
        """g(z) = ...; where g is no letter for an activation it is a value too: f(x) = x^2."""
        function, primes, argument, *_ = head.args
        body = next((t for t in terms[1:] if not generic_call(t)), None)
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
        calls = [t for t in formulae if generic_call(t)]
        concrete = [t for t in formulae if not generic_call(t)]
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


def _in_steps(whole: Expr, formula: Expr, definitions) -> bool:
    """Whether a formula says the same in steps that are named: f = (x + y) z, then q = x + y and f = q z."""
    steps = names(formula) & definitions.keys()
    inside = names(formula)
    while named := inside & definitions.keys():
        inside = (inside - named).union(*(names(definitions[v][1]) for v in named))
    return bool(steps) and not names(whole) & definitions.keys() and inside <= names(whole)


def show_key(variable: Expr) -> str:
    """A name with its letters, as a key of `notes`."""
    return variable.args[0] + "".join(variable.args[1])


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
    sides = sides_of(reading.claims)
    return [*(e for _, e in reading.definitions.values()), *sides]


def with_names(reading: Reading, new) -> Reading:
    """The reading with every name replaced by `new(name)`."""
    return reading._replace(claims=tuple(changed(c, lambda e: renamed(e, new)) for c in reading.claims))
