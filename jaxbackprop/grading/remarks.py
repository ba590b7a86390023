"""Why a line is wrong: the one change that would make it right, in words.

`why` tries what goes wrong in derivations, the telling mistakes first: the value of the activation for its derivative,
another quantity's derivative, a sign or a factor, a path left out, a mask left out, one symbol for another, a transpose.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.formula import (
    ONE,
    Expr,
    ShapeError,
    adjoint,
    has,
    name,
    names,
    nodes,
    number,
    plus,
    pullback,
    replace,
    show,
    spots,
)
from jaxbackprop.grading.wiring import Wiring, activation_of, derivative_of, function_at, gates
from jaxbackprop.grading.worlds import World, contributions, differs, formula_of, value_of, with_adjoints

TRIES = 200  # formulae tried for one line


class Case(NamedTuple):
    """A wrong line, `left = right`, with the value that it has and the one that it should have."""

    world: World
    left: Expr
    right: Expr
    value: np.ndarray
    truth: np.ndarray

    def fits(self, value: np.ndarray) -> bool:
        """Whether a value is the right one, shape and all."""
        return value.shape[1:] == self.truth.shape[1:] and not differs(self.truth, value).any()

    def heals(self, expr: Expr) -> bool:
        """Whether this formula would be right."""
        try:
            return self.fits(value_of(self.world, expr))
        except ValueError:
            return False


def why(world: World, left: Expr, right: Expr, truth: np.ndarray) -> str:
    """In words, what is wrong with `left = right`.

    Args:
        world: the network with numbers in.
        left: the quantity.
        right: what was written.
        truth: the value that the quantity has.
    """
    try:
        value = value_of(world, right)
    except ShapeError as error:
        return f"{error}{_first(_transposes(Case(world, left, right, truth, truth)))}"
    case = Case(world, left, right, value, truth)
    if value.shape[1:] != truth.shape[1:]:
        size = "x".join(map(str, value.shape[1:]))
        needed = "x".join(map(str, truth.shape[1:]))
        turned = ": it is transposed" if case.fits(np.swapaxes(value, 1, 2)) else ""
        return (
            f"its shape is {size} where {show(left)} is {needed}{turned}{'' if turned else _first(_transposes(case))}"
        )
    if left.op == "call" and left.args[1] == 1:
        call = Expr("call", (left.args[0], 0, left.args[2]))
        if not differs(value_of(world, call), value).any():
            return f"this is {show(call)}, the value; its derivative is {derivative_words(world.wiring, call)}"
    constant = next(_constant(case), "")
    if constant:
        return constant
    label = next(_another(case), "")
    if label:
        # "this is dL/dw3" alone does not say what to change: one variable may be wrong, if not the left side
        symbol = next((words for words, node in _symbols(case) if node.op == "name"), "") or next(
            _superfluous(case), ""
        )
        mask = next(_masks(case), "")
        if mask.endswith("is missing") and not symbol:
            return f"{mask}: {label}"
        return f"{label}; {symbol}" if symbol else label
    for find in (
        _value_for_derivative,
        _paths,
        _superfluous,
        _symbols,
        _masks,
        _swapped,
        _signs,
        _guards,
        _factors,
        _derivative_belongs,
    ):
        found = next(iter(find(case)), "")
        if found:
            return found if isinstance(found, str) else found[0]
    return "the two sides differ"


def _first(found: Iterator[str]) -> str:
    words = next(found, "")
    return f": {words}" if words else ""


# --- one finder per kind of mistake; each yields words ----------------------------------------------------------------


def _another(case: Case):
    world, left, right, value = case.world, case.left, case.right, case.value
    """The formula is right, for another quantity."""
    if left.op != "derivative" or left.args[0] != "L":
        return
    mine = world.wiring.of(left.args[1])
    written = {world.wiring.of(n.args[1]) for n in nodes(right) if n.op == "derivative" and n.args[0] == "L"}
    local = {n.args[1] for n in nodes(right) if n.op == "derivative" and n.args[0] != "L"}
    for v, a in world.canonical.items():
        aliases = [v, *(s for s, head in world.wiring.same.items() if head == v)]
        # dL/dyhat dyhat/dz2 is dL/dz2, although yhat and z2 are one; but dL/dh1 alone is a mask left out, no wrong label
        called = next((x for x in aliases if x in local), v)
        if v == mine or (v in written and called not in local):
            continue
        if a.shape == value.shape and not differs(a, value).any() and np.any(a):
            yield f"this is dL/d{called}, not {show(left)}"


def relu_like(wiring: Wiring, call: Expr) -> str:
    """For a call of an activation that is 0 below 0 and z above: ">=" or ">", the side on which its slope at 0 is 1."""
    function = function_at(wiring, call.args[0], call.args[2])
    probe = np.array([-1.0, 2.0, 0.0]).reshape(3, 1, 1)
    small = World(wiring, {"probe": probe}, None, {}, "direct", {}, {}, {})
    value, slope = (value_of(small, Expr("call", (function, primes, name("probe")))).ravel() for primes in (0, 1))
    if not (np.array_equal(value, [0, 2, 0]) and np.array_equal(slope[:2], [0, 1])):
        return ""
    return ">=" if slope[2] == 1 else ">"


def derivative_words(wiring: Wiring, call: Expr) -> str:
    """What g'(z1) is, in words."""
    sign, z = relu_like(wiring, call), show(call.args[2])
    other = {">=": "<", ">": "<="}.get(sign)
    return (
        f"1 (for {z} {sign} 0) and 0 (for {z} {other} 0)"
        if sign
        else show(Expr("call", (call.args[0], 1, call.args[2])))
    )


def spelled(wiring: Wiring, expr: Expr) -> Expr:
    """A formula with relu'(z1) written as its cases."""

    def change(node: Expr) -> Expr | None:
        if node.op == "call" and node.args[1] == 1 and node.args[2].op == "name":
            sign = relu_like(wiring, node)
            if sign:
                zero, other = number(0), {">=": "<", ">": "<="}[sign]
                guards = [Expr("compare", (s, node.args[2], zero)) for s in (sign, other)]
                return Expr("cases", (guards[0], ONE, guards[1], zero))
        return None

    return replace(expr, change)


def _value_for_derivative(case: Case):
    world, right = case.world, case.right
    calls = [c for z in gates(world.wiring) if (c := activation_of(world.wiring, z))]
    for call in calls:
        active = value_of(world, call)
        derivative = derivative_of(call)
        for node, put in spots(right):
            if node.op not in ("cases", "call", "name", "product", "^"):
                continue
            try:
                here = value_of(world, node)
            except ValueError:
                continue
            if here.shape == active.shape and not differs(active, here).any() and case.heals(put(derivative)):
                yield f"this is {show(call)}, the value; its derivative is {derivative_words(world.wiring, call)}"
            if node.op == "call" and node.args[1] and case.heals(put(call)):
                yield f"this is the derivative {show(node)}, where the value {show(call)} belongs"


def _constant(case: Case):
    value, truth = case.value, case.truth
    some = np.abs(value) > 1e-9
    if not some.any():
        return
    ratio = float((truth[some] / value[some]).flat[0])
    if np.isfinite(ratio) and abs(ratio) > 1e-9 and case.fits(ratio * value):
        if ratio == -1 or abs(ratio + 1) < 1e-9:
            yield "the sign is wrong"
        else:
            yield (
                f"a factor is wrong: it is {1 / ratio:.4g} times too large"
                if abs(ratio) < 1
                else f"a factor {ratio:.4g} is missing"
            )


def path(wiring: Wiring, start: str, through: str) -> str:
    """h0 -> yhat: how `start` reaches the output through the equation of `through`, layer by layer."""
    labels, at = [start], through
    for _ in range(len(wiring.definitions)):
        layer = next((v for v, e in wiring.definitions.items() if e.op == "call" and e.args[2] == name(at)), at)
        label = "yhat" if wiring.of("yhat") == layer else layer
        labels.append(label)
        following = next((v for v, e in wiring.definitions.items() if layer in map(wiring.of, names(e))), None)
        if label == "yhat" or following is None or layer == wiring.output:
            break
        at = following
    return " -> ".join(dict.fromkeys(labels))


def _paths(case: Case):
    world, left, value = case.world, case.left, case.value
    if left.op != "derivative" or left.args[0] != "L":
        return
    wiring, mine = world.wiring, world.wiring.of(left.args[1])
    found = contributions(wiring, world.shapes)
    for t, share in found.get(mine, []):
        part = value_of(world, share)
        if len(found[mine]) > 1:
            if case.fits(value + part):
                yield f"the path {path(wiring, mine, t)} is missing"
            if case.fits(value - part):
                yield f"the path {path(wiring, mine, t)} is counted twice"
            if case.fits(value + 2 * part):
                yield f"the path {path(wiring, mine, t)} has the wrong sign"
    for junction, shares in found.items():  # further on, where the formula was put in full
        if junction != mine and len(shares) > 1:
            for t, share in shares:
                rest = plus([s for u, s in shares if (u, s) != (t, share)])
                without = with_adjoints(world, {junction: rest}).canonical.get(mine)
                if without is not None and without.shape == value.shape and not differs(without, value).any():
                    yield f"the path {path(wiring, junction, t)} is missing"


def _masks(case: Case):
    world, right, value, truth = case.world, case.right, case.value, case.truth
    for z in gates(world.wiring):
        call = activation_of(world.wiring, z)
        if call is None:
            continue
        derivative = derivative_of(call)
        mask = value_of(world, derivative)
        if mask.shape[1:] not in (value.shape[1:], (1, 1)):
            continue
        label = show(spelled(world.wiring, derivative))
        if case.fits(value * mask):
            yield (
                f"the factor {show(derivative)} = {label}, the mask, is missing"
                if label != show(derivative)
                else f"the factor {label} is missing"
            )
        if not differs(truth * mask, value).any():
            yield f"the factor {show(derivative)} does not belong here"
        for node, put in spots(right):
            if node.op in ("name", "derivative") and case.heals(put(Expr("hadamard", (node, derivative)))):
                yield f"the factor {show(derivative)} is missing beside {show(node)}"


def _symbols(case: Case):
    world, left, right = case.world, case.left, case.right
    """One symbol should be another."""
    known = [
        *world.wiring.definitions,
        *(v for v in world.values if v not in world.wiring.definitions and "/" not in v),
    ]
    aliases = {n.args[0]: world.wiring.of(n.args[0]) for n in nodes(right) if n.op == "name"}
    tries = 0
    for node, put in spots(right):
        if node == right and node.op == "derivative":
            continue  # then every other name of the quantity would do
        if node.op == "name":
            others = [name(v) for v in known if v not in ("L", aliases[node.args[0]])]
        elif node.op == "derivative" and node.args[0] == "L":
            others = [
                adjoint(v)
                for v in known
                if v not in ("L", world.wiring.of(node.args[1]))
                and world.wiring.of(v) != world.wiring.of(left.args[-1] if left.op == "derivative" else "")
            ]
        elif node.op == "derivative":
            others = [
                Expr("derivative", (a, b))
                for a in world.wiring.definitions
                for b in known
                if a != b and (a == world.wiring.of(node.args[0]) or b == world.wiring.of(node.args[1]))
            ]
        elif node.op == "call" and node.args[2].op == "name":
            others = [Expr("call", (*node.args[:2], name(z))) for z in gates(world.wiring) if z != node.args[2].args[0]]
        elif node.op == "cases" and len(names(node)) == 1:
            (only,) = names(node)
            others = [
                replace(node, lambda e, z=z, only=only: name(z) if e == name(only) else None)
                for z in gates(world.wiring)
                if z != only
            ]
        else:
            continue
        for other in others:
            tries += 1
            if tries > TRIES:
                return
            if case.heals(put(other)):
                yield f"{show(node)} should be {show(other)}", node


def _derivative_belongs(case: Case):
    world, right = case.world, case.right
    for z in gates(world.wiring):
        call = activation_of(world.wiring, z)
        for node, put in spots(right):
            if call and node.op in ("cases", "call", "name") and case.heals(put(derivative_of(call))):
                yield f"{show(node)} should be {show(spelled(world.wiring, derivative_of(call)))}"


def _swapped(case: Case):
    right = case.right
    """Two symbols are in each other's place."""
    symbols = list(dict.fromkeys(n for n in nodes(right) if n.op in ("name", "derivative")))[:12]
    for i, a in enumerate(symbols):
        for b in symbols[i + 1 :]:
            if a.op == b.op and case.heals(replace(right, lambda e, a=a, b=b: b if e == a else a if e == b else None)):
                yield f"{show(a)} and {show(b)} are in each other's place"


def _signs(case: Case):
    right = case.right
    for node, put in spots(right):
        if node.op == "+":
            for i, term in enumerate(node.args):
                turned = term.args[0] if term.op == "negative" else Expr("negative", (term,))
                if case.heals(put(Expr("+", (*node.args[:i], turned, *node.args[i + 1 :])))):
                    yield f"the sign of {show(term.args[0] if term.op == 'negative' else term)} is wrong"
                if case.heals(put(plus([t for j, t in enumerate(node.args) if j != i]))):
                    yield f"the term {show(term)} does not belong here"


def _guards(case: Case):
    right = case.right
    opposite = {">=": "<", ">": "<=", "<=": ">", "<": ">="}
    for node, put in spots(right):
        if node.op == "compare" and node.args[0] in opposite:
            turned = Expr("compare", (opposite[node.args[0]], *node.args[1:]))
            if case.heals(put(turned)):
                yield f"the condition {show(node)} is the wrong way round"
    for node, put in spots(right):
        if node.op == "cases" and len(node.args) >= 4:
            guards, values = node.args[::2], node.args[1::2]
            turned = Expr("cases", tuple(x for pair in zip(guards, reversed(values), strict=True) for x in pair))
            if case.heals(put(turned)):
                yield f"the cases {show(node)} are the wrong way round"


def _superfluous(case: Case):
    """A factor too many."""
    leaves = ("number", "name", "derivative", "call", "cases")
    for node, put in spots(case.right):
        if node.op in leaves and node not in (case.right, ONE) and case.heals(put(ONE)):
            yield f"the factor {show(node)} does not belong here"


def _factors(case: Case):
    """A factor too few, or one that the formula should be divided by."""
    world, right, value, truth = case.world, case.right, case.value, case.truth
    if world.shapes is not None:
        return
    variables = [v for v in world.values if "/" not in v and v != "L"]
    with np.errstate(all="ignore"):
        for v in variables:
            if case.fits(value * world.values[v]):
                yield f"the factor {v} is missing"
            if not differs(truth * world.values[v], value).any():
                yield f"the factor {v} does not belong here"
    leaves = [(n, put) for n, put in spots(right) if n.op in ("name", "derivative", "call", "cases") and n != right]
    for node, put in leaves[: TRIES // len(variables)]:
        for v in variables:
            if case.heals(put(Expr("product", (node, name(v))))):
                yield f"the factor {v} is missing beside {show(node)}"


def _transposes(case: Case) -> Iterator[str]:
    right = case.right
    for node, put in spots(right):
        if node.op == "transpose" and case.heals(put(node.args[0])):
            yield f"{show(node.args[0])} should not be transposed"
        if node.op in ("name", "derivative") and case.heals(put(Expr("transpose", (node,)))):
            yield f"{show(node)} should be transposed"
    for node, put in spots(right):
        if node.op in ("product", "matmul") and case.heals(put(Expr(node.op, node.args[::-1]))):
            yield f"the factors of {show(node)} are in the wrong order"
    for node, put in spots(right):
        if node.op in ("product", "matmul"):
            for i, factor in enumerate(node.args):
                turned = factor.args[0] if factor.op == "transpose" else Expr("transpose", (factor,))
                swapped = (turned, *(f for j, f in enumerate(node.args) if j != i))
                swaps = [swapped, (*swapped[1:], turned)]
                if any(case.heals(put(Expr(node.op, tuple(s)))) for s in swaps if len(s) > 1):
                    yield f"in {show(node)} a transpose and the order are wrong"


# --- the right line and an example -----------------------------------------------------------------------------------


def correction(world: World, left: Expr) -> str:
    """The right line for a quantity, or "" where there is none to give."""
    wiring = world.wiring
    formula = None
    if left.op == "derivative" and left.args[0] == "L":
        formula = formula_of(wiring, left.args[1], world.shapes)
        if formula is None and left.args[1] != "yhat" and wiring.of("yhat") == wiring.of(left.args[1]):
            formula = adjoint("yhat")  # the adjoint that is given, under its other name
    elif left.op == "derivative" and world.shapes is None:
        top, bottom = (wiring.of(v) for v in left.args)
        if top == bottom:
            formula = ONE
        elif bottom in map(wiring.of, names(wiring.definitions.get(top, ONE))):
            formula = plus([e for v, e in pullback(wiring.definitions[top], ONE) if wiring.of(v) == bottom])
    elif left.op == "name":
        formula = wiring.definitions.get(wiring.of(left.args[0]))
    elif left.op == "call":
        formula = spelled(wiring, left)
        formula = None if formula == left else formula
    if formula is None or has(formula, "partial"):
        return ""
    if left.op == "derivative":
        formula = spelled(wiring, formula)
    return f"{show(left)} = {show(formula)}"


def example(world: World, left: Expr, right: Expr, truth: np.ndarray) -> str:
    """Numbers for which the line fails, at a point away from every kink if there is one."""
    try:
        value = value_of(world, right)
    except ValueError:
        return ""
    if value.shape != truth.shape:
        return ""
    bad = differs(truth, value)
    smooth = np.ones_like(bad)
    for z in gates(world.wiring):
        smooth &= (world.values[z] != 0).all(axis=(1, 2))
    rows = np.flatnonzero(bad & smooth) if (bad & smooth).any() else np.flatnonzero(bad)
    if not len(rows):
        return ""
    symbols: dict[str, np.ndarray] = {}
    for node in nodes(right):
        if node.op in ("name", "derivative") and len(symbols) < 6:
            symbols[show(node)] = value_of(world, node)
    if truth.shape[1:] == (1, 1) and symbols:  # the plainest example has no zeros
        rows = rows[np.argsort([sum(a[r, 0, 0] == 0 for a in symbols.values()) for r in rows], kind="stable")]
    row = rows[0]
    if truth.shape[1:] != (1, 1):
        gap = np.nan_to_num(np.abs(truth[row] - value[row]), nan=np.inf)
        i, j = np.unravel_index(int(gap.argmax()), gap.shape)
        comes, has_it = value[row, i, j], truth[row, i, j]
        return f"for instance entry ({i + 1}, {j + 1}) comes out as {comes:.4g} where {show(left)} has {has_it:.4g}"
    given = ", ".join(f"{s} = {a[row, 0, 0] + 0.0:.4g}" for s, a in symbols.items())
    outcome = f"gives {value[row, 0, 0] + 0.0:.4g}, but {show(left)} is {truth[row, 0, 0] + 0.0:.4g}"
    return f"for instance {given} {outcome}" if given else f"it {outcome}"
