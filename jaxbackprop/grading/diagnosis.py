"""Why a line is wrong: the one change that would make it right.

`diagnose` tries what goes wrong in derivations, the telling mistakes first: the value of the activation for its derivative,
another quantity's derivative, a sign or a factor, a path left out, a mask left out, one symbol for another, a transpose.
A finding is a kind and the formulae that it is about; `said` puts it in words, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.comparison import at_points, compare, differs, sides
from jaxbackprop.grading.correction import activations, derivative_words, spelled
from jaxbackprop.grading.derivatives import pulled, value_of, with_adjoints
from jaxbackprop.grading.expression import (
    ONE,
    Expr,
    ShapeError,
    UnknownError,
    adjoint,
    has,
    name,
    names,
    negated,
    nodes,
    number,
    plus,
    replace,
    show_variable,
    size,
    spots,
)  # fmt: skip
from jaxbackprop.grading.world import World

TRIES = 240  # formulae tried for one line, by one finder
EVALUATED = 120_000  # symbols evaluated in the search, in one text

WORDS = {
    "value": "this is {0}, the value; its derivative is {1}",
    "derivative": "this is the derivative {0}, where the value {1} belongs",
    "sign": "the sign is wrong",
    "too large": "a factor is wrong: it is {0} times too large",
    "factor": "a factor {0} is missing",
    "another": "this is {0}, not {1}",
    "path": "the path {0} is missing",
    "path twice": "the path {0} is counted twice",
    "path sign": "the path {0} has the wrong sign",
    "mask": "the factor {0} = {1}, the mask, is missing",
    "missing": "the factor {0} is missing",
    "missing beside": "the factor {0} is missing beside {1}",
    "superfluous": "the factor {0} does not belong here",
    "symbol": "{0} should be {1}",
    "swapped": "{0} and {1} are in each other's place",
    "term sign": "the sign of {0} is wrong",
    "term": "the term {0} does not belong here",
    "term missing": "the term {0} is missing",
    "guard": "the condition {0} is the wrong way round",
    "cases": "the cases {0} are the wrong way round",
    "transposed": "{0} should be transposed",
    "straight": "{0} should not be transposed",
    "order": "the factors of {0} are in the wrong order",
    "turned": "it is transposed",
    "both": "in {0} a transpose and the order are wrong",
    "differ": "the two sides differ",
}


class Finding(NamedTuple):
    """What is wrong: a kind of `WORDS`, the formulae or words in it, and the formula that would be right, if one was found."""

    kind: str
    parts: tuple[Expr | str, ...] = ()
    healed: Expr | None = None


def said(world: World, finding: Finding) -> str:
    """A finding in words, in the letters of the text."""
    parts = [world.called(p) if isinstance(p, Expr) else p for p in finding.parts]
    return WORDS[finding.kind].format(*parts)


@dataclass
class Budget:
    """How many symbols the search for mistakes has evaluated in a text."""

    spent: int = 0

    def spend(self, symbols: int) -> bool:
        """Count them; whether there was enough left."""
        enough = self.spent <= EVALUATED
        self.spent += symbols * enough
        return enough


class Case(NamedTuple):
    """A wrong line, with the values of its sides; the right one's is the left one's where the shapes are not `fitting`."""

    world: World
    left: Expr
    right: Expr
    truth: np.ndarray
    value: np.ndarray
    fitting: bool
    budget: Budget

    def heals(self, expr: Expr) -> bool:
        """Whether this formula would be right."""
        if not self.budget.spend(size(expr)):
            return False
        try:
            outcome = compare(self.world, self.left, expr)
        except (ShapeError, UnknownError):
            return False
        return outcome.equal and not outcome.empty

    def fits(self, value: np.ndarray) -> bool:
        """Whether a value is the right one."""
        bad = differs(self.truth, value)
        return bool(not at_points(bad)[~self.world.zero].any() and np.isfinite(value).any())


def diagnose(world: World, left: Expr, right: Expr, budget: Budget) -> Finding:
    """What is wrong with `left = right`; `budget` is what is left of the search in this text."""
    if not budget.spend(0):
        return Finding("differ")
    fitting = True
    try:
        truth, value = sides(world, left, right)
    except ShapeError:
        truth = value = value_of(world, left, (right,)).array
        fitting = False
    case = Case(world, left, right, truth, value, fitting, budget)
    finders = _FINDERS if fitting else (_transposes, _symbols, _masks, _swapped, _superfluous, _added)
    for find in finders:
        found = next(iter(find(case)), None)
        if found is not None:
            return found
    return Finding("differ")


# --- one finder per kind of mistake ----------------------------------------------------------------------------------


def _slope_left(case: Case) -> Iterator[Finding]:
    left, right = case.left, case.right
    if left.op == "call" and left.args[1] == 1:
        call = Expr("call", (left.args[0], 0, left.args[2]))
        if case._replace(left=call).heals(right):
            yield Finding("value", (call, derivative_words(case.world, call)), spelled(case.world, left))


def _constant(case: Case) -> Iterator[Finding]:
    some = np.isfinite(case.value) & np.isfinite(case.truth) & (np.abs(case.value) > 1e-9) & (np.abs(case.truth) > 1e-9)
    if not some.any():
        return
    ratio = float(np.median(case.truth[some] / case.value[some]))
    if abs(ratio) < 1e-9 or not case.fits(ratio * case.value):
        return
    if abs(ratio + 1) < 1e-9:
        yield Finding("sign", (), negated(case.right))
    elif abs(ratio) < 1:
        yield Finding("too large", (f"{1 / ratio:.4g}",), _scaled(ratio, case.right))
    else:
        yield Finding("factor", (f"{ratio:.4g}",), _scaled(ratio, case.right))


def _scaled(ratio: float, right: Expr) -> Expr:
    whole = round(1 / ratio) if abs(ratio) < 1 else round(ratio)
    if abs(ratio) < 1 and abs(whole * ratio - 1) < 1e-9:
        return Expr("/", (right, number(whole)))
    return Expr("product", (number(float(f"{ratio:.12g}")), *(right.args if right.op == "product" else (right,))))


def _another(case: Case) -> Iterator[Finding]:
    """The formula is right, for another quantity."""
    world, left, right = case.world, case.left, case.right
    if left.op != "derivative" or left.args[0][0] or left.args[1][1]:
        return
    mine = left.args[1][0]
    written = {n.args[1][0] for n in nodes(right) if n.op == "derivative" and not n.args[0][0]}
    local = {n.args[1][0] for n in nodes(right) if n.op == "derivative" and n.args[0][0]}
    same = _aliases(world)
    for v in world.adjoints:
        if same(v) == same(mine) or (v in written and v not in local) or v in ("", world.reading.loss):
            continue
        if any(same(u) == same(v) for u in written) and v not in local:
            continue
        if np.any(world.adjoints[v]) and case._replace(left=adjoint(v)).heals(right):
            label = Finding("another", (adjoint(v), left), None)
            symbol = next(
                (
                    f
                    for f in _symbols(case)
                    if f.kind == "symbol" and isinstance(f.parts[0], Expr) and f.parts[0].op == "name"
                ),
                None,
            )
            symbol = symbol or next(_superfluous(case), None)
            mask = next((m for m in _masks(case) if m.kind in ("mask", "missing")), None)
            yield symbol or mask or label
            return


def _aliases(world: World):
    definitions = world.reading.definitions

    def head(v: str) -> str:
        for _ in range(len(definitions)):
            e = definitions[v][1] if v in definitions else None
            if e is None or e.op != "name":
                break
            v = e.args[0]
        return v

    return head


def _value_for_derivative(case: Case) -> Iterator[Finding]:
    world, right = case.world, case.right
    same = _aliases(world)
    for z, call in activations(world).items():
        derivative = Expr("call", (call.args[0], 1, call.args[2]))
        active = value_of(world, call)
        for node, put in spots(right):
            if node.op not in ("cases", "call", "name", "product", "^"):
                continue
            try:
                here = value_of(world, node)
            except (ShapeError, UnknownError):
                continue
            if here.array.shape == active.array.shape and not differs(active.array, here.array).any():
                for new in (derivative, Expr("hadamard", (derivative, ONE))):
                    if case.heals(put(new)):
                        yield Finding("value", (call, derivative_words(world, call)), spelled(world, put(derivative)))
            if (
                node.op == "call"
                and node.args[1]
                and same(node.args[2].args[0] if node.args[2].op == "name" else "") == z
                and case.heals(put(call))
            ):
                yield Finding("derivative", (node, call), put(call))


def shares(world: World, v: str) -> dict[str, np.ndarray]:
    """The parts of an adjoint, by the definition through which each comes."""
    found = {}
    for t, (letters, e) in world.reading.definitions.items():
        part = pulled(world, (t, letters), e, world.adjoints[t]).get(v) if v in names(e) else None
        if part is not None:
            found[t] = np.broadcast_to(part, world.values[v].array.shape)
    return found


def path(world: World, start: str, through: str) -> str:
    """h0 -> yhat: how `start` reaches the output through the equation of `through`, layer by layer."""
    definitions = {v: e for v, (_, e) in world.reading.definitions.items() if v not in ("", world.reading.loss)}
    labels, at = [start], through
    for _ in range(len(definitions)):
        layer = next((v for v, e in definitions.items() if e.op in ("call", "name", "reduce") and names(e) == {at}), at)
        label = layer
        labels.append(show_variable((label, ())))
        following = next((v for v, e in definitions.items() if layer in names(e)), None)
        if following is None or label == "yhat":
            break
        at = following
    return " -> ".join(dict.fromkeys(labels))


def _paths(case: Case) -> Iterator[Finding]:
    world, left, value = case.world, case.left, case.value
    if left.op != "derivative" or left.args[0][0]:
        return
    mine = left.args[1][0]
    found = shares(world, mine)
    for t, part in found.items():
        if len(found) > 1 and part.size == value.size:
            part = part.reshape(value.shape)
            for kind, sum_ in (("path", value + part), ("path twice", value - part), ("path sign", value + 2 * part)):
                if case.fits(sum_):
                    yield Finding(kind, (path(world, mine, t),))
    for junction in world.reading.definitions:  # further on, where the formula was put in full
        parts = shares(world, junction) if junction not in (mine, "", world.reading.loss) else {}
        for t in parts if len(parts) > 1 else ():
            rest = sum(p for u, p in parts.items() if u != t)
            without = with_adjoints(world, {junction: np.asarray(rest)}).adjoints[mine]
            if without.size == value.size and not differs(without.reshape(value.shape), value).any():
                yield Finding("path", (path(world, junction, t),))


def _masks(case: Case) -> Iterator[Finding]:
    world, right = case.world, case.right
    for call in activations(world).values():
        derivative = Expr("call", (call.args[0], 1, call.args[2]))
        label = spelled(world, derivative)
        wide = "product" if not world.layout.vectors else "hadamard"
        whole = Expr(wide, (right, derivative))
        if case.heals(whole):
            yield (
                Finding("mask", (derivative, label), spelled(world, whole))
                if label != derivative
                else Finding("missing", (label,), whole)
            )
        if case.fitting and not has(right, "call", "cases"):
            continue
        for node, put in spots(right):
            if node.op in ("call", "cases") and node != right and case.heals(put(ONE)):
                yield Finding("superfluous", (node,), put(ONE))
    for call in activations(world).values():
        derivative = Expr("call", (call.args[0], 1, call.args[2]))
        for node, put in spots(right):
            if node.op in ("name", "derivative") and case.heals(put(Expr("hadamard", (node, derivative)))):
                yield Finding("missing beside", (derivative, node), put(Expr("hadamard", (node, derivative))))


def _symbols(case: Case) -> Iterator[Finding]:
    """One symbol should be another."""
    world, left, right = case.world, case.left, case.right
    same = _aliases(world)
    known = [v for v in world.values if v not in ("", world.reading.loss)]
    units = list(activations(world))
    tries = 0
    for node, put in spots(right):
        if node == right and node.op == "derivative":
            continue  # then every other name of the quantity would do
        for other in _others(node, left, known, units, same, world):
            tries += 1
            if tries > TRIES:
                return
            if case.heals(put(other)):
                yield Finding("symbol", (node, other), put(other))


def _others(node: Expr, left: Expr, known, units, same, world: World) -> list[Expr]:
    match node.op, node.args:
        case "name", (text, letters):
            others = [
                name(v, _letters_for(v, letters)) for v in known if same(v) != same(text) and _same_rank(world, v, text)
            ]
            deltas = [name(d, letters) for d in world.deltas if d != text and text in world.deltas]
            return deltas + others
        case "derivative", (("", _), (bottom, letters)):
            asked = left.args[-1][0] if left.op == "derivative" else ""
            return [
                adjoint(v, letters)
                for v in known
                if same(v) not in (same(bottom), same(asked)) and _same_rank(world, v, bottom)
            ]
        case "derivative", ((top, upper), (bottom, lower)):
            pairs = [(a, b) for a in world.reading.definitions for b in known if a != b and (a == top or b == bottom)]
            return [Expr("derivative", ((a, upper), (b, lower))) for a, b in pairs]
        case "call", (function, primes, Expr(op="name", args=(z, letters))):
            return [Expr("call", (function, primes, name(v, letters))) for v in units if v != z]
        case "cases", _ if len(names(node)) == 1:
            (only,) = names(node)
            return [
                replace(node, lambda e, z=z: name(z, e.args[1]) if e.op == "name" else None) for z in units if z != only
            ]
    return []


def _same_rank(world: World, v: str, other: str) -> bool:
    values = world.values
    return other not in values or len(values[v].letters) == len(values[other].letters)


def _letters_for(v: str, letters) -> tuple[str, ...]:
    """The letters of a name that carries them in itself, else those of the one whose place it takes."""
    inside = v.partition("⟨")[2].rstrip("⟩")
    return tuple(inside) if inside else letters


def _swapped(case: Case) -> Iterator[Finding]:
    """Two symbols are in each other's place."""
    right = case.right
    symbols = list(dict.fromkeys(n for n in nodes(right) if n.op in ("name", "derivative")))[:12]
    for i, a in enumerate(symbols):
        for b in symbols[i + 1 :]:
            turned = replace(right, lambda e, a=a, b=b: b if e == a else a if e == b else None)
            if a.op == b.op and case.heals(turned):
                yield Finding("swapped", (a, b), turned)


def _signs(case: Case) -> Iterator[Finding]:
    right = case.right
    for node, put in spots(right):
        if node.op == "+":
            for i, term in enumerate(node.args):
                healed = put(Expr("+", (*node.args[:i], negated(term), *node.args[i + 1 :])))
                if case.heals(healed):
                    yield Finding("term sign", (term.args[0] if term.op == "negative" else term,), healed)
                healed = put(plus([t for j, t in enumerate(node.args) if j != i]))
                if case.heals(healed):
                    yield Finding("term", (term,), healed)
    for node, put in spots(right):
        if node.op in ("name", "number", "derivative", "call", "^", "/") and case.heals(put(negated(node))):
            yield Finding("term sign", (node,), put(negated(node)))


def _guards(case: Case) -> Iterator[Finding]:
    right = case.right
    opposite = {">=": "<", ">": "<=", "<=": ">", "<": ">="}
    for node, put in spots(right):
        if node.op == "compare" and node.args[0] in opposite:
            turned = put(Expr("compare", (opposite[node.args[0]], *node.args[1:])))
            if case.heals(turned):
                yield Finding("guard", (node,), turned)
    for node, put in spots(right):
        if node.op == "cases" and len(node.args) >= 4:
            pairs = zip(node.args[::2], reversed(node.args[1::2]), strict=True)
            turned = put(Expr("cases", tuple(x for pair in pairs for x in pair)))
            if case.heals(turned):
                yield Finding("cases", (node,), turned)


def _superfluous(case: Case) -> Iterator[Finding]:
    """A factor too many."""
    leaves = ("number", "name", "derivative", "call", "cases", "transpose")
    for node, put in spots(case.right):
        if node.op in leaves and node not in (case.right, ONE) and case.heals(put(ONE)):
            yield Finding("superfluous", (node,), put(ONE))


def _factors(case: Case) -> Iterator[Finding]:
    """A factor too few."""
    world, right = case.world, case.right
    op = "hadamard" if world.layout.vectors else "product"
    variables = [name(v, _letters_for(v, ())) for v in world.values if v not in ("", world.reading.loss)][:40]
    for v in variables:
        whole = Expr(op, (right, v))
        if case.heals(whole):
            yield Finding("missing", (v,), whole)
    leaves = [(n, put) for n, put in spots(right) if n.op in ("name", "derivative", "call", "cases") and n != right]
    for node, put in leaves[: TRIES // max(1, len(variables))]:
        for v in variables:
            beside = put(Expr(op, (node, v)))
            if case.heals(beside):
                yield Finding("missing beside", (v, node), beside)


def _added(case: Case) -> Iterator[Finding]:
    """A term or a factor of matrices too few: what stands beside it in another product."""
    world, right = case.world, case.right
    if not world.layout.vectors:
        return
    variables = [name(v) for v in world.values if v not in ("", world.reading.loss) and not world.values[v].letters][
        :20
    ]
    for v in variables:
        for factor in (v, Expr("transpose", (v,))):
            for whole in (Expr("product", (right, factor)), Expr("product", (factor, right))):
                if case.heals(whole):
                    yield Finding("missing", (factor,), whole)


def _derivative_belongs(case: Case) -> Iterator[Finding]:
    world, right = case.world, case.right
    for call in activations(world).values():
        derivative = spelled(world, Expr("call", (call.args[0], 1, call.args[2])))
        for node, put in spots(right):
            if node.op in ("cases", "call", "name") and case.heals(put(derivative)):
                yield Finding("symbol", (node, derivative), put(derivative))


def _transposes(case: Case) -> Iterator[Finding]:
    right = case.right
    if not case.world.layout.vectors:
        return
    if case.heals(Expr("transpose", (right,))):
        yield Finding("turned", (), Expr("transpose", (right,)))
    for node, put in spots(right):
        if node.op == "transpose" and case.heals(put(node.args[0])):
            yield Finding("straight", (node.args[0],), put(node.args[0]))
        turned = put(Expr("transpose", (node,)))
        if node.op in ("name", "derivative", "+") and case.heals(turned):
            yield Finding("transposed", (node,), turned)
    for node, put in spots(right):
        if node.op in ("product", "matmul"):
            turned = put(Expr(node.op, node.args[::-1]))
            if case.heals(turned):
                yield Finding("order", (node,), turned)
    for node, put in spots(right):
        if node.op in ("product", "matmul"):
            for i, factor in enumerate(node.args):
                other = factor.args[0] if factor.op == "transpose" else Expr("transpose", (factor,))
                swapped = (other, *(f for j, f in enumerate(node.args) if j != i))
                for s in (swapped, (*swapped[1:], other)):
                    if len(s) > 1 and case.heals(put(Expr(node.op, tuple(s)))):
                        yield Finding("both", (node,), put(Expr(node.op, tuple(s))))


_FINDERS = (
    _slope_left, _constant, _another, _value_for_derivative, _paths, _transposes, _superfluous, _symbols, _masks, _swapped,
    _guards, _signs, _factors, _derivative_belongs, _added,
)  # fmt: skip


# --- an example ------------------------------------------------------------------------------------------------------


def example(world: World, left: Expr, right: Expr) -> str:
    """Numbers for which the line fails, at a point away from every kink if there is one."""
    try:
        truth, value = sides(world, left, right)
    except (ShapeError, UnknownError):
        return ""
    bad = differs(truth, value) & (np.isfinite(truth))
    bad[world.zero] &= not bad[~world.zero].any()
    rows = np.flatnonzero(at_points(bad))
    if not len(rows):
        return ""
    symbols: dict[str, np.ndarray] = {}
    for node in nodes(right):
        if node.op in ("name", "derivative") and len(symbols) < 6 and node != name("I"):
            symbols[world.called(node)] = value_of(world, node, (right, left)).array
    shown = world.called(left)
    if truth[0].size > 1 or any(a[0].size > 1 for a in symbols.values()):
        row = rows[0]
        gap = np.where(bad[row], np.nan_to_num(np.abs(truth[row] - value[row])), -1)
        at = np.unravel_index(int(gap.argmax()), gap.shape)
        place = ", ".join(str(i + 1) for i, n in zip(at, gap.shape, strict=True) if n > 1)
        return f"for instance entry ({place}) comes out as {value[row][at]:.4g} where {shown} has {truth[row][at]:.4g}"
    flat = {s: np.broadcast_to(a.ravel(), (len(truth),)) for s, a in symbols.items()}
    # the plainest example has no zeros
    rows = sorted(rows, key=lambda r: sum(a[r] == 0 for a in flat.values()))
    row = rows[0]
    given = ", ".join(f"{s} = {a[row] + 0.0:.4g}" for s, a in flat.items())
    outcome = f"gives {value[row].item() + 0.0:.4g}, but {shown} is {truth[row].item() + 0.0:.4g}"
    return f"for instance {given} {outcome}" if given else f"it {outcome}"
