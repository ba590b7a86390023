"""Formulae as trees, and how they are printed.

A formula is an `Expr(op, args)`. A leaf holds text or a number, every other node holds formulae. A variable is a pair
(name, letters): ("z1", ()) is z1, ("w", ("j", "i")) is w_ji, an entry of an indexed family.

    op            args                                       written
    number        value, last digit                          2, 0.35
    name          name, letters                              w1, w_ji
    derivative    top, bottom: variables                     dL/dz1, dp_j/dz_k; the top "" is the loss
    second        top, bottom, bottom: variables             d^2L/dw^2, d^2L/dw db
    partial       formula, variable                          ∂(w1 h0)/∂w1
    delta         letter, letter                             δ_jk, [j = k]
    +             terms                                      a + b
    negative      a                                          -a
    product       factors                                    a * b, a b, a · b
    matmul        a, b                                       a @ b
    hadamard      a, b                                       a ⊙ b
    outer         a, b                                       a ⊗ b, outer(a, b)
    /  ^          a, b                                       a / b, a ^ b
    transpose     a                                          a^T
    sum           letters, a, bound                          Σ_j a, Σ_{j=1}^n a
    reduce        sum mean max ..., axis, a                  sum(a), a.mean(axis=0), ‖a‖²
    call          function, primes, arguments                g'(z1)
    cases         guard, value, guard, value, ...            {1, z1 >= 0; 0, z1 < 0}
    compare       sign, a, b                                 a >= b      (a guard)
    and           guards                                     a >= 0 and b >= 0
    otherwise                                                else
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from jaxbackprop.grading.counters import counter, moved

Variable = tuple[str, tuple[str, ...]]  # a name and its index letters


class Expr(NamedTuple):
    """One node of a formula; see the table above.

    >>> show(Expr("+", (number(1.0), name("z1"))))
    '1 + z1'
    """

    op: str
    args: tuple = ()


class ShapeError(ValueError):
    """Two values whose shapes do not fit; the message says which."""


class UnknownError(ValueError):
    """A symbol that means nothing here, or that cannot be evaluated; the message names it."""


def number(value: float, digit: float = 0.0) -> Expr:
    """A constant; `digit` is the unit of its last decimal place, 0 where it is exact."""
    return Expr("number", (float(value), digit))


def name(text: str, letters: tuple[str, ...] = ()) -> Expr:
    """A variable."""
    return Expr("name", (text, letters))


def adjoint(of: str, letters: tuple[str, ...] = ()) -> Expr:
    """The derivative of the loss with respect to a variable."""
    return Expr("derivative", (("", ()), (of, letters)))


ZERO, ONE, OTHERWISE = number(0), number(1), Expr("otherwise")


def children(expr: Expr) -> list[Expr]:
    """The formulae directly inside a formula."""
    return [a for a in expr.args if isinstance(a, Expr)]


def nodes(expr: Expr) -> Iterator[Expr]:
    """Every formula inside a formula, itself first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def size(expr: Expr) -> int:
    """How many symbols and operations."""
    return sum(1 for _ in nodes(expr))


def names(expr: Expr) -> set[str]:
    """The variables in a formula by name, those of its derivatives left out."""
    return {node.args[0] for node in nodes(expr) if node.op == "name"}


def symbols(expr: Expr) -> set[str]:
    """Every name in a formula, those of its derivatives with them; the loss's is ""."""
    found = names(expr)
    for node in nodes(expr):
        if node.op in ("derivative", "second"):
            found |= {text for text, _ in node.args}
        elif node.op == "partial":
            found.add(node.args[1][0])
    return found


@lru_cache(4096)
def has(expr: Expr, *ops: str) -> bool:
    """Whether a formula contains one of these operations."""
    return any(node.op in ops for node in nodes(expr))


@lru_cache(4096)
def has_local(expr: Expr) -> bool:
    """Whether a formula has a derivative of something other than the loss."""
    return any(n.op == "partial" or (n.op == "derivative" and n.args[0][0]) for n in nodes(expr))


def depth(expr: Expr) -> int:
    """How deep a formula nests; found without recursion, because it guards the functions that recurse."""
    deepest, level = 0, [expr]
    while level:
        deepest += 1
        level = [child for node in level for child in children(node)]
    return deepest


def replace(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """A copy in which every node for which `change` returns a formula is that formula."""
    new = change(expr)
    if new is not None:
        return new
    return Expr(expr.op, tuple(replace(a, change) if isinstance(a, Expr) else a for a in expr.args))


def renamed(expr: Expr, new: Callable[[str], str]) -> Expr:
    """A copy with every name, those of derivatives with them, replaced."""

    def change(node: Expr) -> Expr | None:
        match node.op, node.args:
            case "name", (text, letters):
                return name(new(text), letters)
            case (("derivative" | "second"), variables):
                return Expr(node.op, tuple((new(v) if v else "", letters) for v, letters in variables))
            case "partial", (body, (bottom, lower)):
                return Expr("partial", (renamed(body, new), (new(bottom), lower)))
        return None

    return replace(expr, change)


def spots(expr: Expr) -> Iterator[tuple[Expr, Callable[[Expr], Expr]]]:
    """Every node together with a function that puts another one in its place."""
    yield expr, lambda new: new
    for index, child in enumerate(expr.args):
        if isinstance(child, Expr):
            for node, put in spots(child):

                def put_here(new, put=put, index=index):
                    return Expr(expr.op, (*expr.args[:index], put(new), *expr.args[index + 1 :]))

                yield node, put_here


def negated(expr: Expr) -> Expr:
    """-a; a where it is -a already."""
    return expr.args[0] if expr.op == "negative" else Expr("negative", (expr,))


def plus(terms: list[Expr]) -> Expr:
    """The sum of the terms that are not 0."""
    kept = [t for t in terms if t != ZERO]
    return ZERO if not kept else kept[0] if len(kept) == 1 else Expr("+", tuple(kept))


# --- print -----------------------------------------------------------------------------------------------------------

_BINDING = {
    "+": 1,
    "negative": 2,
    "hadamard": 2,
    "outer": 2,
    "sum": 2,
    "product": 3,
    "matmul": 3,
    "/": 3,
    "^": 5,
    "transpose": 5,
}
_SIGN = {"matmul": " @ ", "hadamard": " ⊙ ", "outer": " ⊗ ", "/": " / ", "^": "^"}


def show(expr: Expr, loss: str = "L", above: int = 0) -> str:
    """A formula in plain text, as `grade` reads it; the loss is called as the text calls it.

    >>> show(Expr("product", (adjoint("h1"), Expr("call", ("g", 1, name("z1"))))))
    "dL/dh1 * g'(z1)"
    """
    binding = _BINDING.get(expr.op, 9)
    text = _show(expr, loss, binding)
    return f"({text})" if binding < above else text


def show_variable(variable: Variable) -> str:
    """A name with its index letters: z1, w_ji."""
    text, letters = variable
    return re.split("[⟨‹]", text)[0].replace("ẟ", "δ") + ("_" if letters else "") + "".join(letters)


def is_over_steps(expr: Expr) -> bool:
    """Whether a sum is one over steps, written out: f_{t-1} + f_t + f_{t+1}."""
    if expr.op != "+" or len(expr.args) < 3:
        return False
    on = [renamed(t, lambda v: moved(v, "t", 1)) for t in expr.args]
    return on[:-1] == [*expr.args[1:]] and on[0] != expr.args[0]


def is_ahead(expr: Expr) -> bool:
    """Whether a sum over steps, written out, speaks of step t + 1 at t."""
    counted = map(counter, symbols(expr.args[1])) if is_over_steps(expr) else ()
    return any(found and found[1] == "t" and found[2] > 0 for found in counted)


def _show(expr: Expr, loss: str, binding: int) -> str:
    def inside(e: Expr, above: int = 0) -> str:
        return show(e, loss, above)

    if is_over_steps(expr):
        return f"Σ_t {inside(expr.args[1], 3)}"
    match expr.op, expr.args:
        case "number", (x, _):
            return f"{x:.6g}"
        case "name", variable:
            return show_variable(variable)
        case "delta", (j, k):
            return f"[{j} = {k}]"
        case "derivative", (top, bottom):
            return f"d{show_variable(top) or loss}/d{show_variable(bottom)}"
        case "second", (top, bottom, other):
            below = (
                f"{show_variable(bottom)}^2" if bottom == other else f"{show_variable(bottom)} d{show_variable(other)}"
            )
            return f"d^2{show_variable(top) or loss}/d{below}"
        case "partial", (a, bottom):
            return f"∂({inside(a)})/∂{show_variable(bottom)}"
        case "+", (first, *rest):
            parts = [(" - ", t.args[0], 2) if t.op == "negative" else (" + ", t, 1) for t in rest]
            return inside(first, 1) + "".join(sign + inside(term, above) for sign, term, above in parts)
        case "negative", (a,):
            return f"-{inside(a, 3)}"
        case "product", factors:
            # a second factor that divides, or begins with a sign, needs its parentheses
            return " * ".join(inside(f, 3 if i == 0 else 4) for i, f in enumerate(factors))
        case (("matmul" | "hadamard" | "outer" | "/" | "^"), (a, b)):
            return f"{inside(a, binding + (expr.op == '^'))}{_SIGN[expr.op]}{inside(b, binding + 1)}"
        case "transpose", (a,):
            return f"{inside(a, 6)}^T"
        case "sum", (letters, a, _):
            return f"Σ_{''.join(letters)} {inside(a, 3)}"
        case "reduce", (how, axis, a):
            how = {"npsum": "np.sum"}.get(how, how)
            return f"{how}({inside(a)}{'' if axis is None else f', axis={axis}'})"
        case "call", (function, primes, *arguments):
            return f"{function}{chr(39) * primes}({', '.join(inside(a) for a in arguments)})"
        case "cases", branches:
            pairs = zip(branches[1::2], branches[::2], strict=True)
            return "{" + "; ".join(f"{inside(value)}, {inside(guard)}" for value, guard in pairs) + "}"
        case "compare", (sign, Expr("delta", (i, j)), Expr("number")):
            return f"{i} {'=' if sign == '==' else '≠'} {j}"
        case "compare", (sign, a, b):
            return f"{inside(a)} {sign} {inside(b)}"
        case "and", (a, b):
            return f"{inside(a)} and {inside(b)}"
        case "otherwise", _:
            return "otherwise"
    raise UnknownError(f"cannot print {expr.op}")
