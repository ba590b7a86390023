"""Statements of code as equations: v += a, v[z <= 0] = 0, p[range(n), y] -= 1, and a name that is computed anew from itself.

    ds = p;  ds -= y;  ds /= n        says  ds = (p − y) / n,  once, in its last line
    h = x;  h = relu(W h)             two values of one name: what comes before the last is another, h‹1›

A derivative is judged where it is finished, and what stands before says that it is. Where nothing was said before, `+=` adds to
0; of what is counted by steps it is the sum over them: dW += dz_t h_{t-1}ᵀ says dW = Σ_t dz_t h_{t-1}ᵀ.
"""

import re
from collections.abc import Sequence

from jaxbackprop.grading.claims import Claim, changed, said
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.expression import (
    ONE,
    OTHERWISE,
    ZERO,
    Expr,
    Variable,
    has,
    names,
    negated,
    nodes,
    plus,
    renamed,
    replace,
    symbols,
)
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.updates import shrinks, update_of
from jaxbackprop.grading.wording import Loop

MOST = 150  # symbols in a statement that is put together of several


def as_equations(claims: list[Claim], over: Sequence[Loop] = ()) -> list[Claim]:
    r"""The claims with every statement as an equation; one that a later line finishes has `completed`.

    >>> from jaxbackprop.grading.lines import chains
    >>> from jaxbackprop.grading.claims import claims_of
    >>> from jaxbackprop.grading.expression import show
    >>> found = as_equations(claims_of(chains("dz = p - y\ndz /= m\ndW += dz * x")))
    >>> [(show(c.right), c.completed) for c in found]
    [('p - y', 2), ('(p - y) / m', 0), ('dL/dz * x', 0)]
    """
    for loop in over:
        claims = _of_each(claims, loop)
    found: list[Claim] = []
    last: dict[Expr, int] = {}
    several: set[str] = set()
    used: set[Expr] = set()
    active = _active(claims)
    behind: dict[Expr, Expr] = {}  # dh, once its mask is put on, is dz
    for i, claim in enumerate(claims):
        claim = _of_entry(claim, last)
        c = _as_equation(changed(claim, lambda e: replace(e, behind.get)), last, used)
        masked = _behind(c, active)
        if masked is not None:
            behind[c.left] = masked  # type: ignore[index]
            c = c._replace(left=masked, terms=())
        v, right = c.left, c.right
        begun = _goes_on_unread(c, claims[:i])
        if begun is not None:
            found[begun] = found[begun]._replace(completed=c.row, terms=())
        elif isinstance(v, Expr) and v in last and not c.bare and _changes(c, found[last[v] :]):
            before = found[last[v]]
            anew = v.op == "name" and claim.relation == "="  # delta = (delta @ W.T) * h * (1 - h): of the layer below
            between = [b.right for b in found[last[v] + 1 :] if isinstance(b.right, Expr)]
            own = (
                isinstance(right, Expr) and right.op == "/" and right.args[0] == v and claim.relation == "="
            )  # J = J / m
            goes_on = (claim.relation != "=" or own) and not any(
                n == v for e in between for n in nodes(e)
            )  # J += …, J /= m
            if (_adjoint(v) and not anew) or goes_on:
                c = _finished(c, before)
                found[last[v]] = before._replace(completed=c.row, terms=())
            elif isinstance(right, Expr) and not has(right, "derivative", "second", "partial"):
                several |= set() if _adjoint(v) else {v.args[0]}
                new = f"{v.args[0]}‹{i}›"
                found = [changed(b, lambda e, v=v, new=new: _other(e, v, new)) for b in found]
                c = c._replace(right=_other(right, v, new))
                c = c._replace(terms=(v, c.right))
        if isinstance(v, Expr) and (v.op == "name" or _adjoint(v)):
            last[v] = len(found)
        found.append(c)
        used |= {n for n in nodes(c.right) if n.op == "name"} if isinstance(c.right, Expr) else set()
    return [_once(c, several) for c in found] if several else found


def _of_entry(claim: Claim, last: dict[Expr, int]) -> Claim:
    """dw /= m, where dw[j] was said: of each entry."""
    v = claim.left
    if claim.relation not in ("/=", "*=") or not isinstance(v, Expr) or v.op != "derivative" or v in last:
        return claim
    entry = next((u for u in last if u.op == v.op and u.args[0] == v.args[0] and u.args[1][0] == v.args[1][0]), None)
    return claim if entry is None else claim._replace(left=entry, terms=())


def _of_each(claims: list[Claim], loop: Loop) -> list[Claim]:
    """In a loop over i what is computed from x[i] is one of each i, and what is added up is Σ_i: J += (a − y[i])²."""
    i = (loop.letter,)
    inside = [c for c in claims if c.row in loop.rows and isinstance(c.left, Expr) and isinstance(c.right, Expr)]
    if not any(c.relation == "+=" for c in inside):
        return claims
    mine = {*loop.taken}
    for c in inside:
        of_one = any(n.op == "name" and (n.args[1] == i or n.args[0] in mine) for n in nodes(c.right))  # type: ignore[arg-type]
        if of_one and c.relation == "=" and c.left.op in ("name", "derivative"):  # type: ignore[union-attr]
            mine.add(c.left.args[0] if c.left.op == "name" else c.left.args[1][0])  # type: ignore[union-attr]

    def one(variable: Variable) -> Variable:
        return (variable[0], i) if variable[0] in mine and not variable[1] else variable

    def lettered(n: Expr) -> Expr | None:
        if n.op == "name":
            return Expr("name", one(n.args))
        return Expr("derivative", tuple(map(one, n.args))) if n.op == "derivative" else None

    found, begun = [], {c.left: c.row for c in inside if c.relation == "+="}
    for c in claims:
        if c.left in begun and c.right == ZERO:  # J = 0, in front
            c = c._replace(completed=begun[c.left], terms=())
        if c.row in loop.rows:
            c = changed(c, lambda e: replace(e, lettered))
            if c.relation == "+=" and isinstance(c.left, Expr) and isinstance(c.right, Expr):
                whole = Expr("sum", (i, c.right, ""))
                c = c._replace(right=whole, relation="=", terms=(c.left, whole))
        found.append(c)
    return found


def _active(claims: list[Claim]) -> dict[str, Expr]:
    """The names of what an activation gives -> what it acts on."""
    return {v.args[0]: e.args[2] for v, e in said(claims) if v.op == "name" and e.op == "call"}


def _behind(claim: Claim, active: dict[str, Expr]) -> Expr | None:
    """dh[h <= 0] = 0, and dh *= 1 - h², leave the derivative by the z of h = g(z); None for another statement."""
    match claim.left, claim.right:
        case (
            Expr("derivative", (top, (v, ()))),
            Expr(("cases" | "product" | "hadamard"), (*_,)) as right,
        ) if any(n == claim.left for n in nodes(right)):
            h = next((h for h in active if h == v or h.startswith(f"{v}_")), "")
            own = {h, *names(active[h])} if h else set()
            if names(right) and names(right) <= own:
                z = active[h].args[0] if active[h].op == "name" else f"z_{h}"
                return Expr("derivative", (top, (z, ())))
    return None


def _adjoint(v: Expr) -> bool:
    return v.op == "derivative" or (v.op == "name" and v.args[0].startswith("δ"))


def _other(e: Expr, v: Expr, new: str) -> Expr:
    return renamed(e, lambda u: new if u == v.args[0] else u)


def _once(claim: Claim, several: set[str]) -> Claim:
    """A claim that derives by a name of several values: which is not said."""
    sides = [e for e in (claim.left, claim.right) if isinstance(e, Expr)]
    by = {n.args[1][0] for e in sides for n in nodes(e) if n.op == "derivative"} & several
    return claim._replace(right=Unread(f"{min(by)} holds more than one value in this text")) if by else claim


def _changes(claim: Claim, since: list[Claim]) -> bool:
    """Whether a statement computes a quantity from what it held before; `since`: the lines from there on."""
    if not isinstance(claim.right, Expr) or claim.row == since[0].row or claim.where:
        return False
    if update_of(claim.left, claim.right) is not None or shrinks(claim.left, claim.right):  # type: ignore[arg-type]
        return False
    if any(n == claim.left for n in nodes(claim.right)):
        return True
    if claim.left.op != "name" or has(claim.right, "derivative", "second", "partial"):  # type: ignore[union-attr]
        return False
    held = {claim.left.args[0]}  # type: ignore[union-attr]
    for c in since[1:]:  # by way of other names: activation = x, z = w activation, activation = g(z)
        if isinstance(c.left, Expr) and isinstance(c.right, Expr) and c.left.op == "name" and names(c.right) & held:
            held.add(c.left.args[0])
    return bool(names(claim.right) & (held - {claim.left.args[0]}))  # type: ignore[union-attr]


def _goes_on_unread(claim: Claim, before: list[Claim]) -> int | None:
    """Where the statement stands that a line which was not read goes on from."""
    place = re.match(r"([^\W\d]\w*)\s*(?:\[.*\]\s*[-+*/]?=(?!=)|[-+*/]=)", claim.text)
    if not place or claim.read:
        return None
    same = [i for i, c in enumerate(before) if re.match(rf"{place[1]}\s*(?:\[.*\])?\s*[-+*/]?=(?!=)", c.text)]
    return same[-1] if same and isinstance(before[same[-1]].left, Expr) and _adjoint(before[same[-1]].left) else None  # type: ignore


def _finished(claim: Claim, before: Claim) -> Claim:
    """A statement with what the quantity held before in its place."""
    if not isinstance(before.right, Expr):
        return claim._replace(right=Unread(f"it goes on from line {before.row}, which was not read"), terms=())
    whole = replace(claim.right, lambda n: before.right if n == claim.left else None)  # type: ignore[arg-type]
    if sum(1 for _ in nodes(whole)) > MOST:
        return claim._replace(right=Unread(f"with what it goes on from it has more than {MOST} symbols"), terms=())
    return claim._replace(right=whole, terms=(claim.left, whole))


# --- one statement ---------------------------------------------------------------------------------------------------


def _as_equation(claim: Claim, known: dict[Expr, int], used: set[Expr]) -> Claim:
    """v += a, v[guard] = a, v[range(n), y] = a with v alone on the left; `used`: what lines above compute with."""
    left, right = claim.left, claim.right
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return claim
    v, guard, one_hot = _place(claim, known)
    if v == left and _adjoint(v) and v not in known and claim.relation == "=" and right.op == "+" and v in right.args:
        new = plus([t for t in right.args if t != v])  # dc = dc + …, of a dc that came in, as dc += …
        return claim._replace(right=new, terms=(v, new))
    sign = claim.relation[:-1] if claim.relation in ("+=", "-=", "*=", "/=") else ""
    if v == left and not sign:
        return claim
    if sign in ("+", "-") and v == left and v not in known and v.op == "name" and v in used and not _adjoint(v):
        return claim._replace(right=_with(sign, v, right), relation="=", terms=())  # a step of the training
    if sign == "+" and v == left and v not in known:
        by = {found[1] for u in symbols(right) if (found := counter(u))}
        own = any(counter(u) for u in symbols(v))
        new = Expr("sum", (("t",), right, "")) if "t" in by and not own else right
    elif guard is not None:
        new = Expr("cases", (guard, _with(sign, v, right), OTHERWISE, v))
    elif one_hot is not None:
        part = one_hot if right == ONE else Expr("hadamard", (one_hot, right))
        rest = Expr("hadamard", (v, Expr("+", (ONE, negated(one_hot)))))
        new = _with(sign, v, part) if sign in ("+", "-") else Expr("+", (rest, part))
        if sign in ("*", "/"):
            return claim._replace(right=Unread("some of its entries are changed"), terms=())
    else:
        new = _with(sign, v, right)
    return claim._replace(left=v, right=new, relation="=", terms=(v, new))


def _with(sign: str, v: Expr, a: Expr) -> Expr:
    match sign:
        case "+":
            return Expr("+", (v, a))
        case "-":
            return Expr("+", (v, negated(a)))
        case "*":
            return Expr("product", (v, a))
        case "/":
            return Expr("/", (v, a))
    return a


def _place(claim: Claim, known: dict[Expr, int]) -> tuple[Expr, Expr | None, Expr | None]:
    """What a statement changes, and where: under a guard, or at the entry of each row that is its class."""
    match claim.left:
        case Expr("product", (v, Expr("cases", (guard, a, _, b)))) if (a, b) == (ONE, ZERO) and v in known:
            if re.match(r"[^\W\d]\w*\[", claim.text):
                return v, guard, None
        case Expr("reduce", ("pick", _, Expr("hadamard", (one_hot, v)))) if v in known:
            return v, None, one_hot
    return claim.left, None, None  # type: ignore[return-value]
