"""What a derivation is judged by: its equations one by one, its network, and the slips in its forward equations.

chains --claims_of()--> claims --convene()--> Court: the network that they imply, with its values and adjoints
"""

import re
from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from jaxbackprop.grading.formula import Expr, has, name, names, nodes, replace
from jaxbackprop.grading.notation import Unread, parse
from jaxbackprop.grading.statements import Chain, chains
from jaxbackprop.grading.wiring import Forward, Wiring, free_variables, from_network, read_forward, wire
from jaxbackprop.grading.worlds import World, contributions, differs, sample, value_of

EXERCISE = "z0 = w0 x; h0 = g(z0); z1 = w1 h0; h1 = g(z1); z2 = w2 h1 + w3 h0; h2 = z2 = yhat"
REPAIRS = 20_000  # symbols evaluated in the search for a forward slip

# --- from chains to claims -------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """One equation: `left = right`, the term before `right` in its chain, and the chain that it belongs to."""

    row: int
    text: str
    left: Expr | Unread
    right: Expr | Unread
    before: Expr | None
    relation: str
    terms: tuple[Expr, ...]
    bare: bool


def same_names(found: list[Chain]) -> list[Chain]:
    """Write a0 as h0, unless the text computes one from the other (h0 = g(a0): there a is the pre-activation)."""
    apart = False
    for chain in found:
        sides = [link.expr for link in chain.links if isinstance(link.expr, Expr)]
        defined = {s.args[0] for s in sides if s.op == "name"}
        inside = {v for s in sides if s.op != "name" for v in names(s)}
        apart |= any({f"a{v[1:]}", f"h{v[1:]}"} - {v} <= inside for v in defined if re.fullmatch(r"[ah]\d+", v))
    if apart:
        return found

    def change(node: Expr) -> Expr | None:
        if node.op in ("name", "derivative"):
            return Expr(node.op, tuple(re.sub(r"^a(?=\d+$)", "h", a) for a in node.args))
        return None

    return [
        chain._replace(
            links=tuple(
                k._replace(expr=replace(k.expr, change)) if isinstance(k.expr, Expr) else k for k in chain.links
            )
        )
        for chain in found
    ]


def _symbols(expr: Expr) -> set[str]:
    return {a for n in nodes(expr) if n.op in ("name", "derivative") for a in n.args}


def claims_of(found: list[Chain]) -> list[Claim]:
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
            claims.append(Claim(chain.row, text, left, link.expr, before, link.relation, terms, chain.bare))
            before = link.expr if isinstance(link.expr, Expr) else None
    return [_turned(c) for c in claims]


def _turned(claim: Claim) -> Claim:
    """Put the quantity on the left: dL/dz2 * w2 = dL/dh1 is about dL/dh1."""
    left, right = claim.left, claim.right
    if isinstance(left, Expr) and isinstance(right, Expr):
        quantity = ("derivative", "name", "call")
        if left.op not in quantity and right.op in quantity[:2]:
            return claim._replace(left=right, right=left)
    return claim


# --- the network and its worlds --------------------------------------------------------------------------------------


class Court(NamedTuple):
    """What claims are judged by.

    Attributes:
        wiring: the network.
        scalar: its values and adjoints as numbers; `matrix` the same with matrices, None where the text has none.
        as_written: the network with a forward slip left in; None where there is none.
        evidence: variable -> the backward claims that its forward equation contradicts.
        scalars_only: the text derives a quantity both with numbers and with matrices: what has no mark is scalar.
        own: a student's wrong formulae so far.
        status: the status of each claim so far.
        cache: worlds with other slopes at the kinks.
        spent: the sizes of the lines whose cause was looked for.
    """

    wiring: Wiring
    scalar: World
    matrix: World | None
    as_written: World | None
    evidence: dict[str, list[Claim]]
    scalars_only: bool
    own: dict[str, Expr]
    status: list[tuple[Claim, str]]
    cache: dict
    spent: list[int]


def convene(claims: list[Claim], network: Any) -> Court:
    """Find the network that the claims are about, and work out its values and adjoints."""
    chains_read = list(dict.fromkeys(c.terms for c in claims if c.terms))
    forward = read_forward(list(t) for t in chains_read)
    evidence: dict[str, list[Claim]] = {}
    written = None
    if network is not None:
        wiring = from_network(network, forward)
        wiring = wiring._replace(functions=forward.functions)
        stated = wire(forward, default=wiring)
        loss = {"L": stated.definitions["L"]} if "L" in stated.definitions else {}
        wiring = wiring._replace(definitions=wiring.definitions | loss, output="L" if loss else wiring.output)
        wiring = _with_loss(wiring, claims)
        if any(stated.definitions.get(v) != e for v, e in wiring.definitions.items()):
            written = stated
    else:
        default = exercise() if _needs_exercise(forward, claims) else None
        written = _with_loss(wire(forward, default=default), claims)
        wiring, evidence = _repaired(forward, default, written, claims)
    notes = {}
    for terms in chains_read:  # m1 = [z1 >= 0], delta2 = dL/dz2: symbols of the student's own
        if terms[0].op == "name" and len(terms) > 1 and terms[0].args[0] not in {*wiring.definitions, *wiring.same}:
            used = {wiring.of(v) for e in wiring.definitions.values() for v in names(e)}
            if terms[0].args[0] not in used and names(terms[1]) | {1 for t in [terms[1]] if has(t, "derivative")}:
                notes.setdefault(terms[0].args[0], terms[1])
    wiring = wiring._replace(notes=_without_circles(notes, wiring))
    as_written = None
    if written is not None and written.definitions != wiring.definitions:
        as_written = _sampled(written._replace(notes=_without_circles(wiring.notes, written)))
    read = [(c.left, c.right) for c in claims if isinstance(c.left, Expr) and isinstance(c.right, Expr)]
    matrix = _sampled(wiring, matrix=True) if any(marked(r) for _, r in read) else None
    with_matrices = {left for left, r in read if marked(r) and left.op == "derivative"}
    both = any(left in with_matrices and not marked(r) and not has_local(r) for left, r in read)
    return Court(wiring, sample(wiring), matrix, as_written, evidence, both, {}, [], {}, [])


@cache
def exercise() -> Wiring:
    """The network of the exercise."""
    terms = ([k.expr for k in chain.links if isinstance(k.expr, Expr)] for chain in chains(EXERCISE))
    return wire(read_forward(terms))


def _needs_exercise(forward: Forward, claims: list[Claim]) -> bool:
    """Whether the text leaves something undefined that the exercise defines."""
    known = exercise()
    defined = {*forward.definitions, *(v for pair in forward.same for v in pair)}
    sides = [s for c in claims for s in (c.left, c.right) if isinstance(s, Expr)]
    used = {s for side in sides for s in _symbols(side)}
    missing = (used & {*known.definitions, *known.same}) - defined
    inputs = {v for exprs in forward.definitions.values() for e in exprs for v in names(e)} - defined
    return not forward.definitions or bool(missing - {"yhat", "h2"}) or bool(missing and "x" not in inputs)


def _with_loss(wiring: Wiring, claims: list[Claim]) -> Wiring:
    """Half the squared error, where the text has no L but says of a derivative that it has to do with y."""
    known = {*wiring.definitions, *wiring.same, *free_variables(wiring)}
    speak = any(
        c.left.op == "derivative" and c.left.args[0] == "L" and "y" in names(c.right)
        for c in claims
        if isinstance(c.left, Expr) and isinstance(c.right, Expr)
    )
    if wiring.output == "L" or "y" in known or not speak:
        return wiring
    loss = parse("1/2 (yhat - y)^2")
    assert isinstance(loss, Expr)
    return wiring._replace(definitions=wiring.definitions | {"L": loss}, output="L")


def _sampled(wiring: Wiring, matrix: bool = False) -> World | None:
    try:
        return sample(wiring, matrix)
    except ValueError:
        return None


def _without_circles(notes: dict[str, Expr], wiring: Wiring) -> dict[str, Expr]:
    """Symbols in an order in which each needs only earlier ones, by whichever name; the others are dropped."""
    kept: dict[str, Expr] = {}
    for symbol, expr in notes.items():
        if not ({wiring.of(v) for v in names(expr)} & notes.keys()) - kept.keys():
            kept[symbol] = expr
    return kept


def size(expr: Expr | Unread) -> int:
    """How many symbols and operations."""
    return sum(1 for _ in nodes(expr)) if isinstance(expr, Expr) else 0


def marked(expr: Expr) -> bool:
    """Whether a formula is written for matrices."""
    return has(expr, "transpose", "matmul", "outer")


def has_local(expr: Expr) -> bool:
    """Whether a formula has a derivative of something else than L."""
    return any(n.op == "partial" or (n.op == "derivative" and n.args[0] != "L") for n in nodes(expr))


def _repaired(
    forward: Forward, default: Wiring | None, written: Wiring, claims: list[Claim]
) -> tuple[Wiring, dict[str, list[Claim]]]:
    """Find forward slips: one equation that two or more backward lines contradict, and that one change reconciles.

    The changed equation must make at least two more quantities right, and no line wrong that was right.
    """
    pairs = [(c, c.left) for c in claims if isinstance(c.left, Expr) and isinstance(c.right, Expr)]
    backward = [c for c, left in pairs if left.op == "derivative" and left.args[0] == "L"][:80]
    evidence: dict[str, list[Claim]] = {}
    chosen: dict[str, Expr] = {}
    current = written
    for _ in range(3):
        good = _agreeing(current, backward)
        bad = [c for c in backward if c not in good]
        best, best_gain = None, []
        most = REPAIRS // (1 + sum(size(c.right) for c in bad) + 8 * len(current.definitions))
        for v, expr in islice(_alternatives(forward, current), most) if len({c.left for c in bad}) > 1 else ():
            changed = _with_loss(wire(forward, chosen | {v: expr}, default), claims)
            # what no longer reaches the output has the adjoint 0, and makes every line about it true: 0 = 0
            if not contributions(current).keys() <= contributions(changed).keys():
                continue
            gain = _agreeing(changed, bad)
            enough = len({c.left for c in gain}) > max(1, len({c.left for c in best_gain}))
            if enough and len(_agreeing(changed, good)) == len(good):
                best, best_gain = (v, expr, changed), gain
        if best is None:
            break
        chosen[best[0]], current = best[1], best[2]
        evidence[best[0]] = best_gain
    return current, evidence


def _alternatives(forward: Forward, wiring: Wiring) -> Iterable[tuple[str, Expr]]:
    """Other equations that might have been meant: the exercise's, the text's others, one symbol changed."""
    known = exercise()
    for v, exprs in forward.definitions.items():
        if v in known.definitions and known.definitions[v] != exprs[0]:
            yield v, known.definitions[v]
        for other in exprs[1:]:
            yield v, other
    values = ["x", *wiring.definitions]
    for v, exprs in forward.definitions.items():
        for old in sorted(names(exprs[0])):
            kind = values if wiring.of(old) in values else sorted(names(exprs[0]) - set(values))
            for new in kind:
                if new not in (old, v, "L", wiring.of(old)):
                    yield v, replace(exprs[0], lambda e, old=old, new=new: name(new) if e == name(old) else None)


def _agreeing(wiring: Wiring, claims: list[Claim]) -> list[Claim]:
    world = _sampled(wiring)
    if world is None:
        return []
    matrix = _sampled(wiring, matrix=True) if any(marked(c.right) for c in claims) else None  # type: ignore[arg-type]
    return [c for c in claims if holds((matrix if matrix and marked(c.right) else world), c)]  # type: ignore[arg-type]


def holds(world: World, claim: Claim) -> bool:
    """Whether the two sides of a claim are equal at every point."""
    try:
        truth, value = value_of(world, claim.left), value_of(world, claim.right)  # type: ignore[arg-type]
    except ValueError:
        return False
    return truth.shape == value.shape and not differs(truth, value).any()
