"""A derivation's own network worked through at given numbers, from its forward equations: `work`.

    z1 = W x + b        every value by its equation,
    dL/dW = dL/dz1 x^T  every adjoint by the chain rule's formula, from the adjoints before it,

each beside `jax.grad` of the equations, to which a zero is added in each line. Names are those of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.grading.comparison import compare
from jaxbackprop.grading.correction import formula_of, right_line
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.expression import (
    ONE,
    Expr,
    ShapeError,
    UnknownError,
    adjoint,
    name,
    nodes,
    replace,
    show,
    show_variable,
)
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.reading import Reading, claims_of, read
from jaxbackprop.grading.world import World, resolved
from jaxbackprop.tracing import circuit
from jaxbackprop.tracing.evaluation import Scope, Shown, evaluate
from jaxbackprop.tracing.render import Row, Worked, row
from jaxbackprop.tracing.symbols import narrow, number, shown_shape
from jaxbackprop.tracing.taken import placed, without_lists, worlds
from jaxbackprop.words import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[str, Any]  # by name: (rows, columns), or an axis for each index letter
JAX = {n: getattr(jnp, n) for n in ("abs", "sign", "exp", "log", "sin", "cos", "sqrt")}
JAX |= {n: a.value for n, a in ACTIVATIONS.items()} | {"step": lambda z: jnp.where(z < 0, 0.0, 1.0)}


@dataclass(frozen=True, eq=False)
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
    for world in worlds(reading, numbers):
        try:
            return _worked(_Problem(world, placed(world, numbers), digits))
        except (ShapeError, UnknownError) as error:
            reasons.append(str(error))
    raise ValueError(f"the equations cannot be worked through: {reasons[0] if reasons else 'they do not fit together'}")


def _require(reading: Reading, numbers: Values, given: Mapping[str, Any]) -> None:
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


class _Problem(NamedTuple):
    """What is worked through: the equations, and the numbers for their free names."""

    world: World
    given: dict[str, np.ndarray]
    digits: int


# --- values and adjoints ---------------------------------------------------------------------------------------------


def _worked(problem: _Problem) -> WorkedDerivation:
    reading = problem.world.reading
    with np.errstate(all="ignore"), jax.enable_x64(True):
        values: dict[str, Any] = dict(problem.given)
        rows = []
        for v, (letters, e) in reading.definitions.items():
            values[v] = _value(problem, e, letters, _numpy(problem, values, {}))
            numbers = _in_numbers(problem, e, letters, values, {})
            rows.append(row(show_variable((v, letters)), show(e, reading.loss), numbers, _squeezed(values[v])))
        many = values[reading.loss].size
        if many != 1:
            raise ShapeError(f"{reading.loss} comes to {many} numbers, and a loss is one: write ‖…‖² or a sum")
        rows += _backward(problem, values, _jax_grad(problem, values))
    uses = {
        v: tuple(u for u in dict.fromkeys(n.args[0] for n in nodes(e) if n.op == "name") if u in values)
        for v, (_, e) in reading.definitions.items()
    }
    given = {v: _squeezed(a) for v, a in problem.given.items()}
    return WorkedDerivation(_title(problem), given, tuple(rows), problem.digits, reading.loss, uses)


def _squeezed(a: np.ndarray) -> np.ndarray:
    """A column or a row as a vector, one entry as a number."""
    return a.reshape(()) if a.size == 1 else a.ravel() if a.ndim == 2 and 1 in a.shape else a


def _backward(problem: _Problem, values: Values, by_jax: Values) -> Iterator[Row]:
    """Each adjoint by its formula, from those before it."""
    reading, found = problem.world.reading, {}
    for v in [*(v for v in reversed(reading.definitions) if v != reading.loss), *reading.free]:
        letters = reading.definitions[v][0] if v in reading.definitions else _letters_of(reading, v)
        right = np.asarray(by_jax[v])
        formula, found[v], numbers = None, right, ["by jax.grad alone"]
        for candidate in _formulae(problem.world, v, letters, values):
            try:
                value = _value(problem, candidate, letters, _numpy(problem, values, found), right.shape)
            except (ShapeError, UnknownError):
                continue
            formula, found[v] = candidate, value
            numbers = _in_numbers(problem, candidate, letters, values, found)
            break
        shown = show(formula, reading.loss) if formula is not None else "?"
        called = f"d{reading.loss}/d{show_variable((v, letters))}"
        yield row(called, shown, numbers, _squeezed(found[v]), _squeezed(right))


def _letters_of(reading: Reading, v: str) -> tuple[str, ...]:
    used = (n.args[1] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name" and n.args[0] == v)
    return next(used, ())


def _formulae(world: World, v: str, letters: tuple[str, ...], values: Values) -> Iterator[Expr]:
    """Formulae for the derivative by v that are right at random points: the chain rule's, p − y, then others."""
    left, plain = adjoint(v, letters), None
    with suppress(ShapeError, UnknownError, ValueError):
        plain = formula_of(world, (v, letters))
    gaps = [
        Expr("+", (name(p, letters), Expr("negative", (name(y, letters),))))
        for p, y in _predictions(world)
        if abs(np.sum(values[y]) - 1) < 1e-9 or values[y].size == 1  # a softmax's slope is p − y where y adds up to 1
    ]
    for formula in [plain, *gaps] if plain is not None else gaps:
        try:
            right = compare(world, left, formula).equal
        except (ShapeError, UnknownError):
            continue
        if right:
            yield replace(formula, _slope)
    other = right_line(world, left)
    if other is not None:
        yield other


def _slope(node: Expr) -> Expr | None:
    """The slopes that have a shorter name."""
    if node.op != "call" or node.args[1] != 1:
        return None
    a = node.args[2]
    return {"log": Expr("/", (ONE, a)), "exp": Expr("call", ("exp", 0, a))}.get(node.args[0])


def _predictions(world: World) -> list[tuple[str, str]]:
    """(prediction, target): what is computed and what is given, of the names in the loss."""
    definitions = world.reading.definitions
    inside = dict.fromkeys(n.args[0] for n in nodes(definitions[world.reading.loss][1]) if n.op == "name")
    targets = [v for v in inside if v not in definitions]
    return [(p, y) for p in inside if p in definitions for y in targets]


def _title(problem: _Problem) -> str:
    """How many equations, of what, and which name is the prediction."""
    world, pairs = problem.world, _predictions(problem.world)
    layout = ("one row an example" if world.layout.rows else "vectors are columns") if world.layout.vectors else ""
    one = f"{pairs[0][0]} is the prediction, {pairs[0][1]} the target" if len(pairs) == 1 else ""
    said = [f"{len(world.reading.definitions)} equations", layout, f"loss {world.reading.loss}", one]
    return "; ".join(filter(None, said))


def _value(problem: _Problem, e: Expr, letters: tuple[str, ...], scope: Scope, shape=None):
    """A formula's value, (rows, columns) or an axis for each of its name's letters."""
    every = {x for n in nodes(e) for x in _letters_in(n)} | set(letters)
    scope = scope._replace(letters=tuple(sorted(every)), sizes=_sizes(problem))
    found = evaluate(e, scope)
    if any(n > 1 and x not in letters for x, n in zip(scope.letters, found.shape[:-2], strict=True)):
        raise UnknownError(f"{show(e)} has an index that its name has not")
    if letters:
        kept = [x for x in scope.letters if x in letters]
        flat = found.reshape([n for x, n in zip(scope.letters, found.shape[:-2], strict=True) if x in letters])
        sizes = [scope.sizes.get(x, 1) for x in kept]
        spread = flat * np.ones(sizes) if scope.exact else np.broadcast_to(flat, sizes)
        return spread.transpose([kept.index(x) for x in letters])
    found = found.reshape(found.shape[-2:])
    if shape is not None and found.shape != shape:
        raise ShapeError(f"{show(e)} is {found.shape[0]}x{found.shape[1]}")
    return found


def _letters_in(node: Expr) -> tuple[str, ...]:
    match node.op, node.args:
        case "name", (_, letters):
            return letters
        case "derivative", ((_, upper), (_, lower)):
            return (*upper, *lower)
        case ("sum", (letters, _, _)) | ("delta", letters):
            return letters
    return ()


def _sizes(problem: _Problem) -> dict[str, int]:
    """How far each letter runs, by the arrays given; a letter of a definition, by those in its formula."""
    reading, found = problem.world.reading, {}
    for _, e in reading.definitions.values():
        for n in nodes(e):
            if n.op == "name" and n.args[1] and n.args[0] in problem.given:
                found |= dict(zip(n.args[1], problem.given[n.args[0]].shape, strict=False))
    slots = {v: tuple(found.get(x, 1) for x in letters) for v, (letters, _) in reading.definitions.items()}
    sides = [e for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr)]
    for e in (*sides, *(e for _, e in reading.definitions.values())):
        for n in nodes(e):
            if n.op == "name" and n.args[0] in slots:
                found = dict(zip(n.args[1], slots[n.args[0]], strict=False)) | found
    return found


def _leaf(problem: _Problem, values: Values, adjoints: Values, expr: Expr, scope: Scope):
    """A name's value, or a derivative's, with an axis for each letter of the formula."""
    if expr.op == "derivative":
        (top, _), (v, letters) = expr.args
        if top:
            return _local(problem, values, top, v, scope)
        source = adjoints
    else:
        (v, letters), source = expr.args, values
    if v not in source:
        raise UnknownError(f"no number for {show(expr, problem.world.reading.loss)}")
    a = source[v]
    if not letters:
        return a.reshape((1,) * len(scope.letters) + (a.shape if a.ndim == 2 else (-1, 1)))
    a = a.reshape(-1) if len(letters) == 1 else a
    if a.ndim != len(letters) or len(set(letters)) < len(letters):
        raise UnknownError(f"{show(expr)} has another number of indices than {v}")
    order = sorted(range(len(letters)), key=lambda i: letters[i])
    sizes = dict(zip(letters, a.shape, strict=True))
    return a.transpose(order).reshape([sizes.get(x, 1) for x in scope.letters] + [1, 1])


def _local(problem: _Problem, values: Values, top: str, bottom: str, scope: Scope):
    """dp/dz, a matrix: row i the derivatives of p's entry i."""
    letters, e = problem.world.reading.definitions.get(top, ((), None))
    if letters or e is None or scope.letters:
        raise UnknownError(f"d{top}/d{bottom} is not worked through")
    value = lambda a: _value(problem, e, (), _jax(problem, {**values, bottom: a}))  # noqa: E731
    return np.asarray(jax.jacobian(value)(jnp.asarray(values[bottom]))).reshape(values[top].size, -1)


def _numpy(problem: _Problem, values: Values, adjoints: Values) -> Scope:
    """Numbers by the formula itself, slopes by their own formulae."""
    world = problem.world

    def call(function: str, primes: int, a, argument: Expr):
        found = _function(world, function, argument)
        if isinstance(found, str):
            return np.asarray((FUNCTIONS[found].derivative if primes else FUNCTIONS[found].value)(a)) + 0 * a
        own = lambda z: _own(problem, found, z)  # noqa: E731
        return np.asarray(jax.jvp(own, (jnp.asarray(a),), (jnp.ones_like(a),))[1] if primes else own(jnp.asarray(a)))

    leaf = lambda e, scope: np.asarray(_leaf(problem, values, adjoints, e, scope))  # noqa: E731
    return Scope(float, leaf, call, np.where, rows=world.layout.rows)


def _function(world: World, function: str, argument: Expr) -> str | tuple[str, Expr]:
    """The name of a known function, or (variable, formula) of one that the text defines."""
    found = resolved(world, function, argument)
    if isinstance(found, tuple) and isinstance(found[0], str):
        return found  # type: ignore[return-value]
    known = next((n for n, f in FUNCTIONS.items() if f is found), None)
    if known is None:
        raise UnknownError(f"{function} has no formula: write one, such as {function}(z) = max(0, z)")
    return known


def _own(problem: _Problem, found: tuple[str, Expr], z):
    variable, body = found
    leaf = lambda e, scope: z  # noqa: E731, ARG005
    return evaluate(body, _jax(problem, {})._replace(leaf=leaf)) if variable else z


def _jax(problem: _Problem, values: Values) -> Scope:
    """The same equations in JAX, for `jax.grad`."""

    def call(function: str, primes: int, a, argument: Expr):
        found = _function(problem.world, function, argument)
        if primes:
            raise UnknownError(f"{function}' within the equations is not worked through")
        return JAX[found](a) if isinstance(found, str) else _own(problem, found, a)

    leaf = lambda e, scope: _leaf(problem, values, {}, e, scope)  # noqa: E731
    return Scope(float, leaf, call, jnp.where, rows=problem.world.layout.rows)


def _jax_grad(problem: _Problem, values: Values) -> dict[str, Any]:
    """∂L/∂v of every name, by `jax.grad`: by a zero added to each."""
    reading = problem.world.reading

    def loss(zeros):
        found = {v: jnp.asarray(a) + zeros[v] for v, a in problem.given.items()}
        for v, (letters, e) in reading.definitions.items():
            found[v] = jnp.asarray(_value(problem, e, letters, _jax(problem, found))) + zeros[v]
        return found[reading.loss].sum()

    return jax.grad(loss)({v: jnp.zeros(values[v].shape) for v in values})


# --- in words --------------------------------------------------------------------------------------------------------


def _in_numbers(problem: _Problem, e: Expr, letters, values: Values, adjoints: Values) -> list[str]:
    """The formula with the numbers in, a line for each entry; the shapes alone where something is wide."""
    used = {n.args[0]: values[n.args[0]] for n in nodes(e) if n.op == "name" and n.args[0] in values}
    used |= {
        f"d{problem.world.reading.loss}/d{v}": adjoints[v]
        for _, (v, _) in (n.args for n in nodes(e) if n.op == "derivative")
        if v in adjoints
    }
    if not all(narrow(_squeezed(a)) for a in used.values()):
        return [", ".join(f"{v} {shown_shape(_squeezed(a))}" for v, a in used.items() if a.size > 1)]
    lines = _texts(problem, e, letters, values, adjoints, slopes=False)
    if not any(n.op == "call" and n.args[1] for n in nodes(e)):
        return lines
    numbers = _texts(problem, e, letters, values, adjoints, slopes=True)
    return [f"{a} = {b}" for a, b in zip(lines, numbers, strict=True)]


def _texts(problem: _Problem, e: Expr, letters, values: Values, adjoints: Values, slopes: bool) -> list[str]:
    """Each entry of a formula in its numbers; a slope as g'(0.5), or as its number."""
    written = lambda a: number(a, problem.digits)  # noqa: E731
    lift = np.vectorize(lambda v: Shown(written(v), float(v)), otypes=[object])
    numeric = _numpy(problem, values, adjoints).call

    def call(function: str, primes: int, a, argument: Expr):
        found = numeric(function, primes, np.vectorize(lambda s: s.value, otypes=[float])(a), argument)
        called = lambda s, v: Shown(f"{function}{chr(39) * primes}({s.text})", float(v))  # noqa: E731
        return lift(found) if primes and slopes else np.vectorize(called, otypes=[object])(a, found)

    scope = Scope(
        lambda x: Shown(written(x), x), lambda e, s: lift(_leaf(problem, values, adjoints, e, s)), call,
        lambda guard, a, b: np.where(np.asarray(guard, bool), a, b), rows=problem.world.layout.rows, exact=False,
    )  # fmt: skip
    shown: Any = _value(problem, e, letters, scope)
    return [s.text for s in shown.ravel()]
