"""Steps of the training: w = w − η dL/dw, Δw = −η δ h, w_{t+1} = w_t − 0.1 (y − t) x.

A step down says what the derivative is, and is judged by that. A step up may climb, or δ may stand for −dL/dz: it is called
right where it goes down, and never wrong; nor is one with w in it, which may shrink w.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.expression import ONE, Expr, Variable, has, names, negated, nodes, replace
from jaxbackprop.grading.words import LOSSES

RATE = re.compile(r"[ηαεγ]|lr|eta|alpha|rate|learning_rate|step_size")
MOST = 0.9  # a number in front that is a rate


class Update(NamedTuple):
    """The name that is stepped, what stands for its derivative, and whether a minus stands before it."""

    of: Variable
    gradient: Expr
    down: bool


def update_of(left: Expr, right: Expr) -> Update | None:
    """The step that an equation says; None for another equation.

    >>> from jaxbackprop.grading.expression import name, show
    >>> from jaxbackprop.grading.grammar import parse
    >>> found = update_of(name("w"), parse("w - η * ∂L/∂w"))
    >>> found.of, show(found.gradient), found.down
    (('w', ()), 'dL/dw', True)
    """
    if left.op != "name" or left.args[0] in LOSSES:
        return None
    if counter(left.args[0]) and not has(right, "derivative", "negative"):  # h_t = h_{t-1} + α f_t
        return None
    whole, of = [right], left.args[0].removeprefix("Δ").lstrip("_")
    if not left.args[0].startswith("Δ"):
        if right.op != "+" or len(right.args) != 2:
            return None
        old = next((t for t in right.args if t.op == "name" and _is_old(t.args[0], left.args[0])), None)
        if old is None:
            return None
        whole, of = [t for t in right.args if t != old], old.args[0]
    change = whole[0] if len(whole) == 1 else None
    if change is None or not of:
        return None
    first = change.args[0] if change.op in ("product", "hadamard", "matmul", "/") else change
    down = "negative" in (change.op, first.op)
    front = (change, first)
    gradient = _without_rate(replace(change, lambda n: n.args[0] if n.op == "negative" and n in front else None))
    return Update((of, left.args[1]), gradient, down) if gradient is not None else None


def is_update(left: Expr, right: Expr) -> bool:
    """Whether an equation is a step, of any form."""
    if left.op != "name" or right.op != "+":
        return left.op == "name" and left.args[0].startswith("Δ")
    old = any(t.op == "name" and _is_old(t.args[0], left.args[0]) for t in right.args)
    step = update_of(left, right)
    return (
        shrinks(left, right)
        or left in right.args
        or (old and has(right, "derivative"))
        or (step is not None and step.down)
    )


def shrinks(left: Expr, right: Expr) -> bool:
    """w = (1 − η λ) w − η g: a step that shrinks w."""
    rated = any(n.op == "name" and RATE.fullmatch(n.args[0]) for n in nodes(right))
    return rated and right.op == "+" and any(t.op == "product" and left in t.args for t in right.args)


def goes_up(left: Expr, right: Expr, any_derivative: bool = False) -> bool:
    """Whether a δ is added, and not taken off: Δw = η δ h; or any derivative."""
    step = update_of(left, right)
    if step is None or step.down:
        return False
    return any(v.startswith("δ") for v in names(step.gradient)) or (any_derivative and has(step.gradient, "derivative"))


def toward(step: Update) -> Expr:
    """What the step says that the derivative is: with a minus in front, what follows it."""
    return step.gradient if step.down else negated(step.gradient)


def _is_old(v: str, new: str) -> bool:
    """w beside w, w_new or w_{t+1}."""
    counted, found = counter(new), counter(v)
    return (found[0] if found else v) == (counted[0] if counted else v if v == new else new.partition("_")[0])


def _without_rate(change: Expr) -> Expr | None:
    """What a rate multiplies; None where there is no rate."""
    rates = [n for n in nodes(change) if n.op == "name" and RATE.fullmatch(n.args[0])]
    if len(rates) == 1:
        return _clean(replace(change, lambda n: ONE if n == rates[0] else None))
    if change.op == "product" and change.args[0].op == "number" and 0 < change.args[0].args[0] < MOST:
        return _clean(Expr("product", (ONE, *change.args[1:])))
    return None


def _clean(e: Expr) -> Expr:
    """A product without its ones."""
    if e.op not in ("product", "hadamard"):
        return e
    kept = [f for f in e.args if f != ONE]
    return Expr(e.op, tuple(kept)) if len(kept) > 1 else kept[0] if kept else ONE
