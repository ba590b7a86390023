"""A derivation's own network worked through at given numbers, from its forward equations: `work`.

    z1 = W x + b        every value by its equation,
    dL/dW = dL/dz1 x^T  every adjoint by the chain rule's formula, from the adjoints before it,

each beside `jax.grad` of the equations, to which a zero is added in each line. Names are those of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.grading.claims import claims_of
from jaxbackprop.grading.comparison import compare
from jaxbackprop.grading.correction import formula_of, right_line, slope
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.derivatives import scope_of
from jaxbackprop.grading.expression import (
    Expr,
    ShapeError,
    UnknownError,
    Variable,
    adjoint,
    name,
    nodes,
    replace,
    show,
    show_variable,
)
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.points import at_point
from jaxbackprop.grading.reading import Reading, read
from jaxbackprop.grading.values import Node, Scope, evaluate, times
from jaxbackprop.grading.world import Values, World, as_node, called, resolved, stored, with_letters
from jaxbackprop.spelling import extra
from jaxbackprop.tracing import circuit
from jaxbackprop.tracing.render import Row, Worked, row
from jaxbackprop.tracing.shown import Shown
from jaxbackprop.tracing.symbols import narrow, number, shown_shape
from jaxbackprop.tracing.taken import placed, without_lists, worlds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JAX = {n: getattr(jnp, n) for n in ("abs", "sign", "exp", "log", "sin", "cos", "sinh", "cosh", "sqrt")}
JAX |= {n: a.value for n, a in ACTIVATIONS.items()} | {"step": lambda z: jnp.where(z < 0, 0.0, 1.0)}


@dataclass(frozen=True, eq=False, repr=False)
class WorkedDerivation(Worked):
    """A text's equations worked through: `Worked`, and `uses`: for each name those that it is computed from."""

    loss: str
    uses: Mapping[str, tuple[str, ...]]

    @property
    def backward(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The heading."""
        return f"backward: derivatives of {self.loss}"

    def figure(self) -> Figure:
        """Draw the equations as a circuit: values above each name, derivatives below."""
        return circuit.draw(self)


def work(text: str, given: Mapping[str, Any], digits: int = 6) -> WorkedDerivation:
    """Work a text's forward equations through at given numbers, and back.

    Args:
        text: forward equations and a loss, in any notation that `grade` reads. Numbers may stand in it: x = 2, W = [[1, 2],
            [3, 4]].
        given: a number, or an array, for each name that no equation computes; it counts before one in the text. A vector
            is a column, or a row where the text multiplies from the right.
        digits: how many significant digits are shown.

    Raises:
        ValueError: the text has no loss, a number is missing, or arrays do not fit together.

    >>> t = work("z = w x + b; h = tanh(z); L = 1/2 (h - y)^2", {"w": 3, "x": 2, "b": -5.5, "y": 0})
    >>> print(t["z"].numbers, "|", t["dL/dw"].formula, "|", t.difference < 1e-15)
    3·2 + (−5.5) | dL/dw = dL/dz * x | True
    """
    extra("lark", "the parser lark", "trace of a derivation", "grade")
    text, written = without_lists(text)
    reading = read(claims_of(chains(text)))
    numbers = {v: np.asarray(a, np.float64) for v, a in {**reading.given, **written, **given}.items()}
    used = {n.args[0] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name"}
    own = {v: d for v, d in reading.definitions.items() if v not in reading.functions or v in used}  # g(z) is no value
    reading = reading._replace(definitions=own)
    _require(reading, numbers, given)
    reasons = []
    with np.errstate(all="ignore"):
        for world in worlds(reading, numbers):
            try:
                return _worked(world, at_point(world, placed(world, numbers)), digits)
            except (ShapeError, UnknownError) as error:
                reasons.append(str(error))
    raise ValueError(f"the equations cannot be worked through: {reasons[0] if reasons else 'they do not fit together'}")


def _require(reading: Reading, numbers: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if any(counter(v) for v in reading.definitions):
        raise ValueError(
            "a letter counts the layers or steps: write each out, as z1 = W1 x + b1, to have numbers in them"
        )
    if reading.loss not in reading.definitions:
        raise ValueError("the text defines no loss: write one, such as L = 1/2 (yhat - y)^2")
    missing = [v for v in reading.free if v not in numbers]
    if missing:
        raise ValueError(f"no number for {', '.join(missing)}: give each, as in {missing[0]}=0.5, or {missing[0]}=1,2")
    unknown = [v for v in given if v not in reading.free]
    if unknown:
        raise ValueError(f"{unknown[0]} is not free in the equations: they need {', '.join(reading.free)}")


# --- values and adjoints ---------------------------------------------------------------------------------------------


def _worked(world: World, at: World, digits: int) -> WorkedDerivation:
    """`at`: the world at the numbers given; `world`: at random points, where formulae are compared."""
    reading = at.reading
    rows = []
    for v, (letters, e) in reading.definitions.items():
        numbers = _in_numbers(at, e, (v, letters), digits)
        rows.append(row(show_variable((v, letters)), show(e, reading.loss), numbers, _shown(at, v, at.values[v].array)))
    many = at.values[reading.loss].array.size
    if many != 1:
        raise ShapeError(f"{reading.loss} comes to {many} numbers, and a loss is one: write ‖…‖² or a sum")
    with jax.enable_x64(True):
        by_jax = {v: np.asarray(a) for v, a in _jax_grad(at).items()}
    rows += _backward(world, at, by_jax, digits)
    uses = {v: tuple(u for u in dict.fromkeys(_used(e)) if u in at.values) for v, (_, e) in reading.definitions.items()}
    given = {v: _shown(at, v, at.values[v].array) for v in reading.free}
    return WorkedDerivation(_title(world), given, tuple(rows), digits, reading.loss, uses)


def _used(e: Expr) -> list[str]:
    return [n.args[0] for n in nodes(e) if n.op == "name"]


def _shown(at: World, v: str, a: np.ndarray) -> np.ndarray:
    """A column or a row as a vector, one entry as a number; an axis for each letter of the name."""
    a = a.reshape(a.shape[1:-2]) if at.values[v].letters and a.shape[-2:] == (1, 1) else a[0]
    return a.reshape(()) if a.size == 1 else a.ravel() if a.ndim == 2 and 1 in a.shape else a


def _backward(world: World, at: World, by_jax: Mapping[str, np.ndarray], digits: int) -> Iterator[Row]:
    """Each adjoint by its formula, from those before it."""
    reading, loss = at.reading, at.reading.loss
    at = at._replace(adjoints={})
    for v in [*(v for v in reversed(reading.definitions) if v != loss), *reading.free]:
        letters = reading.definitions[v][0] if v in reading.definitions else _letters_of(reading, v)
        formula, numbers, value = None, ["by jax.grad alone"], by_jax[v]
        for candidate in _formulae(world, at, v, letters):
            with suppress(ShapeError, UnknownError):
                value = _entries(at, candidate, (v, letters), scope_of(at, [candidate, name(v, letters)]))
                numbers = _in_numbers(at, candidate, (v, letters), digits)
                formula = candidate
                break
        at = at._replace(adjoints=at.adjoints | {v: value})
        shown = show(formula, loss) if formula is not None else "?"
        called = f"d{loss}/d{show_variable((v, letters))}"
        yield row(called, shown, numbers, _shown(at, v, value), _shown(at, v, by_jax[v]))


def _letters_of(reading: Reading, v: str) -> tuple[str, ...]:
    used = (n.args[1] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name" and n.args[0] == v)
    return next(used, ())


def _formulae(world: World, at: World, v: str, letters: tuple[str, ...]) -> Iterator[Expr]:
    """Formulae for the derivative by v that are right at random points: the chain rule's, p − y, then others."""
    left, plain = adjoint(v, letters), None
    with suppress(ShapeError, UnknownError, ValueError):
        plain = formula_of(world, (v, letters))
    gaps = [
        Expr("+", (name(p, letters), Expr("negative", (name(y, letters),))))
        for p, y in _predictions(world)
        if abs(at.values[y].array.sum() - 1) < 1e-9 or at.values[y].array.size == 1  # of a softmax: y adds up to 1
    ]
    for formula in [plain, *gaps] if plain is not None else gaps:
        try:
            right = compare(world, left, formula).equal
        except (ShapeError, UnknownError):
            continue
        if right:
            yield replace(formula, slope)
    other = right_line(world, left)
    if other is not None:
        yield other


def _predictions(world: World) -> list[tuple[str, str]]:
    """(prediction, target): what is computed and what is given, of the names in the loss."""
    definitions = world.reading.definitions
    inside = dict.fromkeys(n.args[0] for n in nodes(definitions[world.reading.loss][1]) if n.op == "name")
    targets = [v for v in inside if v not in definitions]
    return [(p, y) for p in inside if p in definitions for y in targets if y not in _above(definitions, p)]


def _above(definitions: Mapping[str, tuple[Any, Expr]], v: str) -> set[str]:
    """All that a name is computed from."""
    below = [u for u in _used(definitions[v][1]) if u != v] if v in definitions else []
    return {*below}.union(*(_above(definitions, u) for u in below))


def _title(world: World) -> str:
    """How many equations, of what, and which name is the prediction."""
    pairs = _predictions(world)
    layout = ("one row an example" if world.layout.rows else "vectors are columns") if world.layout.vectors else ""
    one = f"{pairs[0][0]} is the prediction, {pairs[0][1]} the target" if len(pairs) == 1 else ""
    first = ", ".join(f"{x} is the first entry" for x in sorted(world.sized.fixed))
    said = [f"{len(world.reading.definitions)} equations", layout, f"loss {world.reading.loss}", one, first]
    return "; ".join(filter(None, said))


def _entries(at: World, e: Expr, variable: Variable, scope: Scope) -> Any:
    """A formula's value, with the entries of the name that it is of."""
    v, letters = variable
    like = at.values[v].array
    each = with_letters(as_node(np.ones(like.shape)), letters, at.layout)
    found = stored(times(evaluate(e, scope), each, e), letters).array
    if found.shape != like.shape:
        raise ShapeError(f"{show(e)} has other sizes than {v}")
    return found


# --- beside jax.grad -------------------------------------------------------------------------------------------------


def _jax_grad(at: World) -> dict[str, Any]:
    """∂L/∂v of every name, by `jax.grad`: by a zero added to each."""
    reading = at.reading

    def loss(zeros):
        found = Values({v: as_node(jnp.asarray(at.values[v].array) + zeros[v]) for v in reading.free})
        for v, (letters, e) in reading.definitions.items():
            scope = _in_jax(at._replace(values=found), [e, name(v, letters)])
            found[v] = as_node(jnp.asarray(_entries(at, e, (v, letters), scope)) + zeros[v])
        return found[reading.loss].array.sum()

    return jax.grad(loss)({v: jnp.zeros(a.array.shape) for v, a in at.values.items()})


def _in_jax(at: World, formulae: list[Expr]) -> Scope:
    """What a formula is evaluated in, in JAX."""
    plain = scope_of(at, formulae)

    def leaf(e: Expr) -> Node:
        if e.op != "call":
            return plain.leaf(e)
        function, primes, argument = e.args
        if primes:
            raise UnknownError(f"{function}' within the equations is not worked through")
        found, inside = _function(at, function, argument), evaluate(argument, scope)
        if isinstance(found, str):
            return mapped(found, inside)
        own = scope._replace(leaf=lambda e: inside if e == name(found[0]) else leaf_of_own(e))

        def leaf_of_own(e: Expr) -> Node:
            return mapped(e.args[0], evaluate(e.args[2], own))

        return evaluate(found[1], own)

    def mapped(called: str, a: Node) -> Node:
        return Node(JAX[called](a.array), a.letters)

    scope = plain._replace(leaf=leaf, function=mapped)
    return scope


def _function(world: World, function: str, argument: Expr) -> str | tuple[str, Expr]:
    """The name of a known function, or (variable, formula) of one that the text defines."""
    found = resolved(world, function, argument)
    if isinstance(found, tuple) and isinstance(found[0], str):
        return found  # type: ignore[return-value]
    known = next((n for n, f in FUNCTIONS.items() if f is found), None)
    if known is None:
        raise UnknownError(f"{function} has no formula: write one, such as {function}(z) = max(0, z)")
    return known


# --- in words --------------------------------------------------------------------------------------------------------


def _in_numbers(at: World, e: Expr, variable: Variable, digits: int) -> list[str]:
    """The formula with the numbers in, a line for each entry; the shapes alone where something is wide."""
    used = {v: _shown(at, v, at.values[v].array) for v in _used(e) if v in at.values}
    below = [n.args[1][0] for n in nodes(e) if n.op == "derivative"]
    used |= {f"d{at.reading.loss}/d{v}": _shown(at, v, at.adjoints[v]) for v in below if v in at.adjoints}
    if not all(narrow(a) for a in used.values()):
        return [", ".join(f"{v} {shown_shape(a)}" for v, a in used.items() if a.size > 1)]
    lines, numbers = (
        [s.text for s in _entries(at, e, variable, _in_words(at, [e, name(*variable)], digits, slopes)).ravel()]
        for slopes in (False, True)
    )
    return [a if a == b else f"{a} = {b}" for a, b in zip(lines, numbers, strict=True)]


def _in_words(at: World, formulae: list[Expr], digits: int, slopes: bool) -> Scope:
    """What a formula is evaluated in with numbers as they are written; a slope as g'(0.5), or as its number."""
    plain = scope_of(at, formulae)
    values = np.vectorize(lambda s: s.value, otypes=[float])
    lift = np.vectorize(lambda v: Shown(number(v, digits), float(v)), otypes=[object])

    def leaf(e: Expr) -> Node:
        if e.op != "call":
            node = plain.leaf(e)
            return Node(lift(node.array), node.letters)
        function, primes, argument = e.args
        inside = evaluate(argument, scope)
        found = called(at, function, primes, argument, Node(values(inside.array), inside.letters))
        return Node(lift(found.array), found.letters) if primes and slopes else written(function, primes, inside, found)

    def written(function: str, primes: int, inside: Node, found: Node) -> Node:
        text = np.vectorize(lambda s, v: Shown(f"{function}{chr(39) * primes}({s.text})", float(v)), otypes=[object])
        return Node(text(inside.array, found.array), inside.letters)

    def mapped(function: str, a: Node) -> Node:
        return written(function, 0, a, plain.function(function, Node(values(a.array), a.letters)))

    def constant(x: float) -> Node:
        return Node(lift(np.full((1, 1, 1), x)))

    scope = plain._replace(leaf=leaf, number=constant, function=mapped)
    return scope
