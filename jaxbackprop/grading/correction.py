"""The right line for a quantity: the chain rule backwards through the formulae that use it, as a formula.

With d = the adjoint of a formula:  a + b gives d and d;  a b gives d b and a d (matrices: d bᵀ and aᵀ d);  f(a) gives
d f'(a);  a^n gives d n a^(n-1). What is written is compared with the values first: a formula that is not right is not given.
"""

import numpy as np

from jaxbackprop.grading.comparison import compare
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.derivatives import letter_of_examples, value_of
from jaxbackprop.grading.expression import (
    ONE,
    ZERO,
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
    size,
)  # fmt: skip
from jaxbackprop.grading.functions import Function
from jaxbackprop.grading.meanings import OPAQUE
from jaxbackprop.grading.world import World, resolved

LONG = 30  # symbols in a formula beyond which the chain rule is given instead
FRESH = "kjilnmpqrs"

Share = tuple[Expr, Expr]  # an occurrence of a name, and its share of the adjoint


def right_line(world: World, left: Expr) -> Expr | None:
    """What `left` is, as a formula; None where there is none to give."""
    for formula in _with_counts(world, left):
        if formula is None or any(n == left for n in nodes(formula)) or has(formula, "partial"):
            continue  # it says nothing
        try:
            outcome = compare(world, left, formula)
        except (ShapeError, UnknownError):
            continue
        if outcome.equal:
            return formula
    return None


def _with_counts(world: World, left: Expr):
    """What is proposed; and over a batch the same divided by the number of examples."""
    found = [g for f in _proposed(world, left) if f is not None for g in dict.fromkeys((_tidied(f), f))]
    yield from found
    m = next(
        (
            v
            for v in world.counts
            if any(isinstance(e, Expr) and v in names(e) for c in world.reading.claims for e in (c.left, c.right))
        ),
        None,
    )
    if (world.layout.batch or letter_of_examples(world.reading)) and m is not None:
        yield from (Expr("product", (Expr("/", (ONE, name(m))), f)) for f in found)


def _tidied(expr: Expr) -> Expr:
    """(A B)ᵀ as Bᵀ Aᵀ, and Aᵀᵀ as A."""

    def change(node: Expr) -> Expr | None:
        match node:
            case Expr("transpose", (Expr("transpose", (a,)),)):
                return _tidied(a)
            case Expr("transpose", (Expr(("product" | "matmul"), factors) as a,)):
                return _tidied(Expr(a.op, tuple(Expr("transpose", (f,)) for f in reversed(factors))))
        return None

    return replace(expr, change)


def _beside_target(world: World, bottom):
    """p - y, what a loss and its output often come to."""
    loss = world.reading.definitions.get("") or world.reading.definitions.get(world.reading.loss)
    inside = names(loss[1]) if loss else set()
    for p in [v for v in world.reading.definitions if v in inside]:
        for y in sorted(inside - {*world.reading.definitions}):
            letters = bottom[1] if world.values[p].letters else ()
            if len(world.values[p].letters) == len(world.values[y].letters) == len(letters):
                yield Expr("+", (name(p, letters), Expr("negative", (name(y, letters),))))


def _proposed(world: World, left: Expr):
    reading = world.reading
    match left.op, left.args:
        case "derivative", (("", _), bottom):
            formula = _quiet(lambda: formula_of(world, bottom))
            if formula is not None and size(formula) <= LONG:
                yield spelled(world, formula)
            yield _quiet(lambda: chained(world, bottom))
            if formula is not None:
                yield spelled(world, formula)
            yield from _beside_target(world, bottom)
        case (("reduce" | "transpose"), (*how, inner)):
            yield from (Expr(left.op, (*how, f)) for f in _proposed(world, inner) if f is not None)
        case "derivative", (top, bottom):
            if len(top[1]) == len(bottom[1]) == 1:  # of a softmax
                i, k = name(*top), name(top[0], bottom[1])
                yield Expr(
                    "product", (i, Expr("+", (Expr("delta", (top[1][0], bottom[1][0])), Expr("negative", (k,)))))
                )
            if top == bottom:
                yield ONE
            elif top[0] in reading.definitions:
                found = _quiet(lambda: gathered(pullback(world, reading.definitions[top[0]][1], ONE), bottom, top[1]))
                yield found and spelled(world, found)
        case "partial", (body, bottom):
            found = _quiet(lambda: gathered(pullback(world, body, ONE), bottom, ()))
            yield found and spelled(world, found)
        case "second", (("", _), bottom, other):
            first = _quiet(lambda: formula_of(world, bottom))
            again = first and _quiet(lambda: gathered(pullback(world, first, ONE), other, ()))
            yield again and spelled(world, again)
            for t, (_, e) in reading.definitions.items():  # where it enters linearly: d²L/dt² (dt/dw)²
                local = (
                    _quiet(lambda e=e: gathered(pullback(world, e, ONE), bottom, ())) if bottom[0] in names(e) else None
                )
                curve = Expr("second", (("", ()), (t, ()), (t, ())))
                yield local and spelled(world, times(curve, Expr("^", (local, number(2)))))
        case "name", (text, letters):
            if text in world.deltas:
                its = Expr("derivative", (("", ()), (world.deltas[text], letters)))
                for found in (*_proposed(world, its), its):
                    yield _negative(found) if found is not None and world.opposite else found
            elif text in reading.definitions:
                yield reading.definitions[text][1]
        case "call", _:
            yield spelled(world, left)


def _quiet(make):
    try:
        return make()
    except (ShapeError, UnknownError, ValueError):
        return None


# --- the chain rule as formulae --------------------------------------------------------------------------------------


def formula_of(world: World, bottom) -> Expr | None:
    """dL/d(bottom): the sum over the formulae that use it."""
    text, terms = bottom[0], []
    for t, (own, e) in world.reading.definitions.items():
        if text in names(e):
            seed = ONE if t == (world.reading.loss or "") or t == "" else adjoint(t, own)
            if any(n.op == "call" and n.args[0].startswith(OPAQUE) for n in nodes(e)):
                terms.append(times(seed, Expr("derivative", ((t, own), bottom))))
                continue
            terms.append(gathered(pullback(world, e, seed), bottom, ()))
    return plus([t for t in terms if t is not None]) if terms else None


def chained(world: World, bottom) -> Expr | None:
    """dL/d(bottom) by the derivatives of what uses it: Σ dL/dt dt/d(bottom)."""
    text, letters = bottom
    terms = []
    for t, (own, e) in world.reading.definitions.items():
        if text in names(e):
            if t in ("", world.reading.loss):
                return None  # dL/dw = dL/dw
            top = (t, _fresh(own, letters))
            local, first = Expr("derivative", (top, bottom)), Expr("derivative", (("", ()), top))
            if world.layout.vectors and not own:
                terms.append(times(Expr("transpose", (local,)), first))
            else:
                term = times(first, local)
                terms.append(Expr("sum", (top[1], term, "")) if top[1] else term)
    return plus(terms) if terms else None


def _fresh(letters, taken) -> tuple[str, ...]:
    free = [x for x in FRESH if x not in taken and x not in letters]
    return tuple(free.pop(0) if x in taken else x for x in letters)


def gathered(shares: list[Share], bottom, kept: tuple[str, ...]) -> Expr | None:
    """The shares of one name added up, each summed over the letters that it has and the name has not."""
    text, letters = bottom
    terms = []
    for occurrence, share in shares:
        if occurrence.args[0] != text:
            continue
        own = occurrence.args[1]
        if letters and len(own) != len(letters):
            return None
        if not letters and own:
            return None
        letters_in = _letters(share)
        clash = dict(
            zip(
                sorted((letters_in - set(own)) & set(letters)),
                [f for f in FRESH if f not in letters_in and f not in letters],
                strict=False,
            )
        )
        share = _relettered(_relettered(share, clash), dict(zip(own, letters, strict=True)))
        summed = tuple(sorted(_letters(share) - set(letters) - set(kept)))
        terms.append(Expr("sum", (summed, share, "")) if summed else share)
    return plus(terms) if terms else None


def _letters(expr: Expr) -> set[str]:
    """The letters on which a formula depends."""
    match expr.op, expr.args:
        case "name", (_, letters):
            return set(letters)
        case "derivative", ((_, upper), (_, lower)):
            return {*upper, *lower}
        case "delta", pair:
            return set(pair)
        case "sum", (letters, a, _):
            return _letters(a) - set(letters)
    return {x for a in expr.args if isinstance(a, Expr) for x in _letters(a)}


def _relettered(expr: Expr, new: dict[str, str]) -> Expr:
    if not new:
        return expr

    def change(node: Expr) -> Expr | None:
        match node.op, node.args:
            case "name", (text, letters):
                return name(text, tuple(str(new.get(x, x)) for x in letters))
            case "derivative", ((top, upper), (bottom, lower)):
                return Expr(
                    "derivative",
                    ((top, tuple(new.get(x, x) for x in upper)), (bottom, tuple(new.get(x, x) for x in lower))),
                )
            case "delta", (j, k):
                return Expr("delta", (new.get(j, j), new.get(k, k)))
            case "sum", (letters, a, bound):
                return Expr("sum", (letters, _relettered(a, {x: y for x, y in new.items() if x not in letters}), bound))
        return None

    return replace(expr, change)


def pullback(world: World, expr: Expr, seed: Expr) -> list[Share]:
    """Backwards through one formula: the share of the adjoint of every occurrence of a name."""

    def shape(e: Expr) -> tuple[int, int]:
        return value_of(world, e, (expr,)).shape

    def sent(a: Expr, share: Expr) -> list[Share]:
        """To a part that may be repeated along rows or columns."""
        whole, part = shape(expr), shape(a)
        if share != ZERO and whole != part and whole != (1, 1):
            axes = [i for i in (0, 1) if part[i] == 1 != whole[i]]
            share = Expr("reduce", ("sum", None if len(axes) == 2 else axes[0], share)) if axes else share
        return pullback(world, a, share)

    match expr.op, expr.args:
        case "name", _:
            return [(expr, seed)]
        case "+", terms:
            return [pair for term in terms if names(term) for pair in sent(term, seed)]
        case "negative", (a,):
            return pullback(world, a, _negative(seed))
        case "transpose", (a,):
            return pullback(world, a, seed if shape(a) == (1, 1) else Expr("transpose", (seed,)))
        case (("product" | "matmul" | "hadamard"), (*first, b)):
            a = first[0] if len(first) == 1 else Expr(expr.op, tuple(first))
            s, t = shape(a), shape(b)
            if expr.op != "hadamard" and (1, 1) not in (s, t) and s[1] == t[0]:
                to_a = times(seed, Expr("transpose", (b,)))
                return pullback(world, a, to_a) + pullback(world, b, times(Expr("transpose", (a,)), seed))
            op = "product" if (1, 1) in (s, t) else "hadamard"
            found = sent(a, times(seed, b, op)) if names(a) else []
            return found + (sent(b, times(seed, a, op)) if names(b) else [])
        case "/", (a, b):
            found = sent(a, Expr("/", (seed, b))) if names(a) else []
            squared = Expr("/", (a, Expr("^", (b, number(2)))))
            op = "product" if shape(expr) == (1, 1) else "hadamard"
            return found + (sent(b, _negative(times(seed, squared, op))) if names(b) else [])
        case "^", (a, Expr(op="number", args=(n, _))):
            power = a if n == 2 else Expr("^", (a, number(n - 1)))
            scaled = times(number(n), seed)
            return pullback(
                world, a, times(scaled, power, "product" if (1, 1) in (shape(scaled), shape(a)) else "hadamard")
            )
        case "call", (function, primes, a):
            op = "product" if shape(a) == (1, 1) else "hadamard"
            return pullback(world, a, times(seed, Expr("call", (function, primes + 1, a)), op))
        case "sum", (_, a, _):
            return pullback(world, a, seed)
        case "reduce", ("sum" | "npsum", None, a):
            return pullback(world, a, seed)
        case "cases", branches:
            found = []
            for i, branch in enumerate(branches[1::2]):
                for text, share in pullback(world, branch, seed):
                    shown = [share if j == i else ZERO for j in range(len(branches) // 2)]
                    found.append(
                        (text, Expr("cases", tuple(x for pair in zip(branches[::2], shown, strict=True) for x in pair)))
                    )
            return found
        case "number", _:
            return []
    if not names(expr):
        return []
    raise UnknownError(f"no formula for the derivative of {expr.op}")


def _negative(seed: Expr) -> Expr:
    match seed.op, seed.args:
        case "negative", (a,):
            return a
        case "number", (x, _):
            return number(-x)
    return Expr("negative", (seed,))


def times(a: Expr, b: Expr, op: str = "product") -> Expr:
    """a * b, with the factor 1 and numbers multiplied out."""
    a, b = _folded(a), _folded(b)
    if ZERO in (a, b):
        return ZERO
    if ONE in (a, b):
        return b if a == ONE else a
    if a.op == b.op == "number":
        return number(a.args[0] * b.args[0])
    if op == "product":
        left, right = ([_folded(f) for f in (e.args if e.op == "product" else (e,))] for e in (a, b))
        if left[0].op == right[0].op == "number":
            return times(number(left[0].args[0] * right[0].args[0]), _joined((*left[1:], *right[1:])))
        if right[0].op == "number":
            return times(right[0], _joined((*left, *right[1:])))
        match left, right[0]:
            case [Expr("number", (x, _))], Expr("/", (a, Expr("number", (y, _)))) if y:  # 2 (λ / 2)
                return times(number(x / y), _joined((a, *right[1:])))
        return Expr("product", (*left, *right))
    return Expr(op, (a, b))


def _folded(expr: Expr) -> Expr:
    match expr.op, expr.args:
        case "/", (Expr(op="number", args=(a, _)), Expr(op="number", args=(b, _))) if b:
            return number(a / b)
    return expr


def _joined(factors: tuple) -> Expr:
    return factors[0] if len(factors) == 1 else Expr("product", factors) if factors else ONE


# --- masks -----------------------------------------------------------------------------------------------------------


def relu_like(world: World, call: Expr) -> str:
    """For a call of an activation that is 0 below 0 and z above: ">=" or ">", the side on which its slope at 0 is 1."""
    function = _quiet(lambda: resolved(world, call.args[0], call.args[2]))
    if function is None:
        return ""
    probe = np.array([-1.0, 2.0, 0.0]).reshape(3, 1, 1)
    if isinstance(function, Function):
        value, slope = function.value(probe).ravel(), function.derivative(probe).ravel()
    else:
        one = np.ones_like(probe)
        found = jet(function[1], {function[0]: Jet(probe, one, one, 0 * one)}, lambda f, a: resolved(world, f, a))
        value, slope = (np.broadcast_to(a, probe.shape).ravel() for a in found[:2])
    if not (np.array_equal(value, [0, 2, 0]) and np.array_equal(slope[:2], [0, 1])):
        return ""
    return ">=" if slope[2] == 1 else ">"


def spelled(world: World, expr: Expr) -> Expr:
    """A formula with relu'(z1) written as its cases, and sin'(z) as cos(z)."""

    def change(node: Expr) -> Expr | None:
        if (shorter := slope(node)) is not None:
            return shorter
        if node.op == "call" and node.args[1] == 1 and node.args[2].op == "name":
            sign = relu_like(world, node)
            if sign:
                zero, other = number(0), {">=": "<", ">": "<="}[sign]
                guards = [Expr("compare", (s, node.args[2], zero)) for s in (sign, other)]
                return Expr("cases", (guards[0], ONE, guards[1], zero))
        return None

    return replace(expr, change)


def slope(node: Expr) -> Expr | None:
    """The slopes that have a name of their own; None for another formula."""
    if node.op != "call" or node.args[1] != 1:
        return None
    a = node.args[2]
    sine, cosine = (Expr("call", (f, 0, a)) for f in ("sin", "cos"))
    shorter = {"log": Expr("/", (ONE, a)), "exp": Expr("call", ("exp", 0, a)), "sin": cosine, "cos": negated(sine)}
    return shorter.get(node.args[0])


def derivative_words(world: World, call: Expr) -> str:
    """What g'(z1) is, in words."""
    sign, z = relu_like(world, call), world.called(call.args[2])
    other = {">=": "<", ">": "<="}.get(sign)
    if sign:
        return f"1 (for {z} {sign} 0) and 0 (for {z} {other} 0)"
    return world.called(Expr("call", (call.args[0], 1, call.args[2])))


def activations(world: World) -> dict[str, Expr]:
    """The name on which an activation acts -> g(z), as the text applies it."""
    found: dict[str, Expr] = {}
    for _, e in world.reading.definitions.values():
        for n in nodes(e):
            if n.op == "call" and not n.args[1] and n.args[2].op == "name" and n.args[0] not in ("log", "exp", "sqrt"):
                found.setdefault(n.args[2].args[0], n)
    return found
