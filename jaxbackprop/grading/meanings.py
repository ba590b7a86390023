"""What letters mean where texts use them in more than one way: a function that is a value, a family beside its sum, ∇f, v'.

claims --meant()--> claims in which a letter means one thing; and definitions of functions of which nothing is said
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxbackprop.grading.claims import Claim, changed, is_derived, is_generic, is_number, nodes_of, said
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.expression import (
    Expr,
    UnknownError,
    Variable,
    has,
    has_local,
    name,
    names,
    nodes,
    renamed,
    replace,
)
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.updates import update_of
from jaxbackprop.grading.words import LOSSES

RESIDUAL = "ẟ"  # what a δ is called that stands for no derivative
_UNKNOWN = (*LOSSES, "R", "Ω")  # functions that texts leave open
OPAQUE = "φ9"  # how a function begins of which nothing is said
Definition = tuple[tuple[str, ...], Expr]  # the index letters of a name, and its formula


def meant(claims: list[Claim]) -> tuple[list[Claim], dict[str, Definition]]:
    """The claims with each letter in one meaning, and a definition of each function that only its argument is known of."""
    claims = _without_hats([_reaching(c) for c in claims])
    claims, opaque = _with_opaque(_with_parameters(_of_all_entries(_with_residuals(_with_gradients(claims)))))
    claims = [changed(c, lambda e: replace(e, _product)) for c in _families(_without_letters(_of_matrices(claims)))]
    return [_with_next(c) for c in claims], opaque


def _with_parameters(claims: list[Claim]) -> list[Claim]:
    """Where f(x) = x^n, with another name than x in it, f is a value, and f'(x) its derivative by x; L(a, y) = … too.

    Beside h(x) = w x, h(x_i) is h_i = w x_i; f(u) with another u is f's formula with u in it.
    """
    every = nodes_of(claims)
    heads: dict[str, tuple[tuple[Expr, ...], Expr]] = {}
    for left, right in said(claims):
        if left.op == "call" and not left.args[1]:
            function, _, *inside = left.args
            values = all(a.op == "name" for a in inside) and len({*inside}) == len(inside)
            open_ = len(inside) > 1 or (names(right) - {inside[0].args[0]} and not has_local(right))
            if len(function) == 1 and function != "σ" and values and open_:
                heads.setdefault(function, (tuple(inside), right))
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
        return replace(body, dict(zip(inside, given, strict=True)).get) if len(given) == len(inside) else None

    def valued(c: Claim) -> Claim:
        if isinstance(c.left, Expr) and c.left.op == "call" and c.left.args[0] in heads and not c.left.args[1]:
            inside, own = heads[c.left.args[0]][0], letters[c.left.args[0]]
            c = changed(c, lambda e: lettered(e, inside, own)) if own else c
        return changed(c, lambda e: replace(e, change))

    return [valued(c) for c in claims] if heads else claims


def _in_losses(claims: list[Claim]) -> set[str]:
    """What a loss is computed from."""
    losses = (e for v, e in said(claims) if v.op == "name" and v.args[0] in LOSSES)
    return {v for e in losses if not has(e, "derivative", "second", "partial") for v in names(e)}


def _without_hats(claims: list[Claim]) -> list[Claim]:
    """p̂ = 1/n Σ_i x_i, in the end, of a loss of p: the value that p takes there."""
    every = [v for n in nodes_of(claims) for v, _ in _variables(n)]
    heads = {c.left.args[0] for c in claims if isinstance(c.left, Expr) and c.left.op == "name"}
    hats = {v: v[:-3] for v in heads if v.endswith("hat") and every.count(v) == 1 and v[:-3] in {*every} - heads}
    return [changed(c, lambda e: renamed(e, lambda v: hats.get(v, v))) for c in claims] if hats else claims


def _reaching(claim: Claim) -> Claim:
    """Σ_i y_i log p_i + (1 − y_i) log(1 − p_i): a term whose i would be loose belongs to the sum."""
    left = claim.left
    if not isinstance(left, Expr) or not isinstance(claim.right, Expr):
        return claim
    own = {x for n in nodes(left) for v in _variables(n) for x in v[1]}

    def reached(e: Expr) -> Expr:
        if e.op != "+":
            return e
        terms: list[Expr] = []
        for t in e.args:
            loose = _loose(t) - own
            last = terms[-1] if terms else None
            inner = _sum_at_end(last) if last is not None else None
            if inner is not None and loose and loose <= {*inner.args[0]}:
                whole = Expr("sum", (inner.args[0], Expr("+", (inner.args[1], t)), *inner.args[2:]))
                terms[-1] = replace(last, lambda n, inner=inner, whole=whole: whole if n == inner else None)  # type: ignore[arg-type]
            else:
                terms.append(t)
        return terms[0] if len(terms) == 1 else Expr("+", tuple(terms))

    return changed(claim, reached)


def _variables(n: Expr) -> tuple[Variable, ...]:
    return (n.args,) if n.op == "name" else n.args if n.op in ("derivative", "second") else ()


def _loose(e: Expr) -> set[str]:
    """The index letters of a formula over which nothing in it sums."""
    if e.op == "sum":
        return _loose(e.args[1]) - {*e.args[0]}
    inside = {x for a in e.args if isinstance(a, Expr) for x in _loose(a)}
    return inside | {x for v in _variables(e) for x in v[1]}


def _sum_at_end(e: Expr) -> Expr | None:
    """The sum that ends a term: that of −1/m Σ_i a_i."""
    while e.op in ("product", "negative"):
        e = e.args[-1]
    return e if e.op == "sum" else None


_GRADIENT = re.compile(r"(?:g|grads?|gradient)\d*")


def _with_gradients(claims: list[Claim]) -> list[Claim]:
    """grad = 2 X^T (X w − y); w −= η grad: what is called so, and is a step's, is the derivative by what steps."""
    steps: dict[str, set[Variable]] = {}
    for left, right in said(claims):
        step = update_of(left, right)
        if step is not None and step.gradient.op == "name" and _GRADIENT.fullmatch(step.gradient.args[0]):
            steps.setdefault(step.gradient.args[0], set()).add(step.of)
    heads = {v.args[0] for v, e in said(claims) if v.op == "name" and not is_derived(e)}
    by = {name(g): Expr("derivative", (("", ()), *of)) for g, of in steps.items() if len(of) == 1 and g in heads}
    return [changed(c, lambda e: replace(e, by.get)) for c in claims] if by else claims


def _with_residuals(claims: list[Claim]) -> list[Claim]:
    """Where L = ½ δ² is computed from it, δ is a value like any other, and stands for no derivative."""
    inside = {v for v in _in_losses(claims) if v.startswith("δ")}
    return [changed(c, lambda e: renamed(e, lambda v: RESIDUAL + v[1:] if v in inside else v)) for c in claims]


def _with_opaque(claims: list[Claim]) -> tuple[list[Claim], dict[str, Definition]]:
    """In J = L(W) + ½ λ ‖W‖², L(W) is a value of which nothing is said but what it is a function of; with its definition."""
    every = nodes_of(claims)
    heads = {c.left.args[0] for c in claims if isinstance(c.left, Expr) and c.left.op in ("call", "name")}
    called: dict[str, set[tuple]] = {}
    for n in every:
        if n.op == "call" and not n.args[1] and n.args[0] in _UNKNOWN and n.args[0] not in heads:
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
        if n.args[1] and n.args[2].op != "name":
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
    free = {v for v in _in_losses(claims) if v in _UNKNOWN or re.fullmatch(r"[LJEC]_?\w+", v)} - heads
    by: dict[str, dict[Variable, None]] = {}
    for n in every:
        if n.op == "derivative" and n.args[0][0] in free and n.args[1][0]:
            by.setdefault(n.args[0][0], {})[n.args[1]] = None
    found: dict[str, Definition] = {}
    for f, bottoms in by.items():
        parts = [_opaque(i, b) for i, b in enumerate(bottoms)]
        found[f] = ((), Expr("+", tuple(parts)) if len(parts) > 1 else parts[0])
    return found


def _opaque(i: int, of: Variable) -> Expr:
    """A number of which nothing is said but what it is a function of."""
    whole = Expr("reduce", ("sum", None, Expr("call", (f"{OPAQUE}{i}", 0, name(*of)))))
    return Expr("sum", (of[1], whole, "")) if of[1] else whole


def _with_next(claim: Claim) -> Claim:
    """The v' of δ = r + γ v' − v is another v, and no derivative."""
    if not isinstance(claim.left, Expr) or not isinstance(claim.right, Expr) or claim.left.op != "name":
        return claim

    def other(n: Expr) -> Expr | None:
        return name(f"{n.args[0][0]}'", n.args[0][1]) if n.op == "derivative" and n.args[1] == ("", ()) else None

    alone = not has(replace(claim.right, other), "derivative", "partial")
    return changed(claim, lambda e: replace(e, other)) if alone else claim


def _product(n: Expr) -> Expr | None:
    """σ(1 - σ) is a product, and no call."""
    if n.op == "call" and not n.args[1] and n.args[0] in names(n.args[2]):
        return Expr("product", (name(n.args[0]), replace(n.args[2], _product)))
    return None


def _of_matrices(claims: list[Claim]) -> list[Claim]:
    """The a_ki of a text with a matrix A, and with no a, is an entry of it; a_i a column."""
    variables = {v for n in nodes_of(claims) for v in _variables(n)}
    matrices = {v for v, letters in variables if v[:1].isupper() and not letters}
    alone = {v for v, letters in variables if not letters}
    many = {v for v, letters in variables if len(letters) == 2 or (len(letters) == 1 and v[0] in "xyzahtps")}
    entries = {v for v in many if v[0].upper() + v[1:] in matrices - {v}} - alone

    def one(variable: Variable) -> Variable:
        v, letters = variable
        return (v[0].upper() + v[1:], letters) if v in entries else variable

    return _with_variables(claims, one) if entries else claims


def _families(claims: list[Claim]) -> list[Claim]:
    """In L = Σ_i L_i the family is another name than what it adds up to."""
    heads = {v.args for v, _ in said(claims) if v.op == "name"}
    both = {v for v, letters in heads if letters} & {v for v, letters in heads if not letters}
    every = (n for c in claims if isinstance(c.right, Expr) for n in nodes(c.right))
    turned = [n.args[0].args for n in every if n.op == "transpose" and n.args[0].op == "name"]
    both |= {v for v, letters in turned if letters} & {v for v, letters in turned if not letters}  # u^T v + Σ_k u_k^T v
    both = {v for v in both if not v.startswith("δ")}

    def one(variable):
        v, letters = variable
        return (f"{v}‹›", letters) if letters and v in both else variable

    return _with_variables(claims, one) if both else claims


def _without_letters(claims: list[Claim]) -> list[Claim]:
    """The L_i of one example, where nothing that it is computed from has an i."""
    alone = {
        v.args
        for v, e in said(claims)
        if v.op == "name" and v.args[1] and not v.args[0].startswith("δ")
        if not (is_number(e) or is_derived(e) or any(n.op in ("name", "delta") and n.args[1] for n in nodes(e)))
    }
    others = {v.args for v, _ in said(claims) if v.op == "name"} - alone
    alone = {v for v in alone if v[0] not in {u for u, _ in others}}

    def one(variable):
        return (f"{variable[0]}_{''.join(variable[1])}", ()) if variable in alone else variable

    return _with_variables(claims, one) if alone else claims


def _with_variables(claims: list[Claim], one: Callable[[Variable], Variable]) -> list[Claim]:
    """The claims with `one(variable)` for every variable, those of derivatives with them."""

    def change(n: Expr) -> Expr | None:
        if n.op == "name":
            return Expr("name", one(n.args))
        return Expr(n.op, tuple(map(one, n.args))) if n.op in ("derivative", "second") else None

    return [changed(c, lambda e: replace(e, change)) for c in claims]


def _of_all_entries(claims: list[Claim]) -> list[Claim]:
    """Where f(x) = log Σ_i e^{x_i}, f is one number of all entries, and no function that goes entry by entry."""
    calls = [(v.args, e) for v, e in said(claims) if v.op == "call" and not v.args[1]]
    heads = {f for (f, *_), e in calls if f not in FUNCTIONS and has(e, "sum", "reduce")}

    def bare(n: Expr) -> Expr | None:
        return name(n.args[0]) if n.op == "call" and n.args[0] in heads and not n.args[1] else None

    return [changed(c, lambda e: replace(e, bare)) for c in claims] if heads else claims


# --- slopes ----------------------------------------------------------------------------------------------------


def known_slopes(claims: list[Claim], functions: Mapping[str, tuple[str, Expr]]) -> dict[str, tuple[str, Expr]]:
    """f'(z) = f(z) (1 − f(z)) says that f is the sigmoid, f'(z) = 1 − f(z)² that it is tanh; of those not in `functions`."""
    called = {v: e for v, e in said(claims) if e.op == "call"}
    z = np.linspace(-2, 2, 9)
    point = Jet(z, np.ones_like(z), np.ones_like(z), np.zeros_like(z))
    found: dict[str, tuple[str, Expr]] = {}
    for left, right in said(claims):
        if left.op != "call" or len(left.args) != 3 or left.args[1] != 1:
            continue
        f, _, argument = left.args
        right = replace(right, called.get)  # a (1 − a), of a = f(z)
        calls = [n for n in nodes(right) if n.op == "call"]
        own = calls and all(n.args == (f, 0, argument) for n in calls) and argument.op == "name"
        if f in functions or not is_generic(f) or not own:
            continue
        for known in ("sigmoid", "tanh"):
            try:
                slope = jet(right, {argument.args[0]: point}, lambda *_, known=known: FUNCTIONS[known]).value
            except UnknownError:
                continue
            if np.allclose(slope, FUNCTIONS[known].derivative(z)):
                found[f] = (argument.args[0], Expr("call", (known, 0, argument)))
    return found


def with_slopes(claims: list[Claim], known: set[str]) -> list[Claim]:
    """dσ/dx = σ(1 - σ), where σ is a function: σ'(x) = σ(x) (1 - σ(x))."""
    every = nodes_of(claims)
    functions = {n.args[0] for n in every if n.op == "call" and n.args[2].op == "name"} - known

    values = {
        f: [v for v, e in said(claims) if v.op == "name" and e.op == "call" and e.args[:2] == (f, 0)] for f in functions
    }
    on = {f: {n.args[2] for n in every if n.op == "call" and n.args[0] == f} for f in functions}

    def value_of(n: Expr) -> Expr | None:
        """∂σ/∂w of a = σ(z): the derivative of a."""
        if n.op != "derivative" or n.args[0][1] or n.args[0][0] not in functions:
            return None
        a, outside = values[n.args[0][0]], name(*n.args[1]) not in on[n.args[0][0]]
        return Expr("derivative", (a[0].args, n.args[1])) if len(a) == 1 and outside else None

    claims = [changed(c, lambda e: replace(e, value_of)) for c in claims]

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


_GIVEN = re.compile(r"(?:[xXyYtT]|inputs?|targets?|labels?)\d*|[αληγτεκρ]|lr|[mnNΝBKDd]|data")  # no parameter


def by_its_own(e: Expr, definitions: Mapping[str, Definition]) -> Expr:
    """y' is the derivative of y by what it is computed from; by x, where that is several."""

    def change(n: Expr) -> Expr | None:
        if n.op != "derivative" or n.args[1] != ("", ()):
            return None
        (y, letters) = n.args[0]
        inside = sorted(names(definitions[y][1])) if y in definitions else []
        above = {*inside}
        while more := {u for v in above if v in definitions for u in names(definitions[v][1])} - above:
            above |= more
        alone = inside if len(inside) == 1 else []
        by = alone if not {*alone} & definitions.keys() else []
        by = by or [v for v in above if v == "x"] or alone
        if y in LOSSES:  # ∇J: by its one parameter
            by = [v for v in sorted(above - definitions.keys()) if not _GIVEN.fullmatch(v)]
            by = by if len(by) == 1 else []
        return Expr("derivative", ((y, letters), (by[0], ()))) if by else None

    return replace(e, change)
