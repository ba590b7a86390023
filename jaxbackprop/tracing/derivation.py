"""A derivation's own network worked through at given numbers, from its forward equations: `work`.

    z1 = W x + b        every value by its equation,
    dL/dW = dL/dz1 x^T  every adjoint by the chain rule's formula, from the adjoints before it,

each beside `jax.grad` of the equations, to which a zero is added in each line. Names are those of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.grading.choice import choose
from jaxbackprop.grading.comparison import compare
from jaxbackprop.grading.correction import formula_of, right_line
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
from jaxbackprop.grading.shapes import Layout
from jaxbackprop.grading.world import Loss, World, build, resolved
from jaxbackprop.tracing import circuit
from jaxbackprop.tracing.evaluation import Scope, Shown, evaluate
from jaxbackprop.tracing.render import Row, Worked, row
from jaxbackprop.tracing.symbols import narrow, number, shown_shape
from jaxbackprop.words import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[str, Any]  # by name: (rows, columns), or an axis for each index letter
JAX = {n: getattr(jnp, n) for n in ("abs", "sign", "exp", "log", "sin", "cos", "sqrt")}
JAX |= {n: a.value for n, a in ACTIVATIONS.items()} | {"step": lambda z: jnp.where(z < 0, 0.0, 1.0)}
LIST = re.compile(
    r"(?:^|(?<=[\s,;$]))([^\W\d]\w*)\s*=\s*(?:np\.array\(|jnp\.array\()?([\[(][-−+\d.eE,;\s\[\]()]*[,;\s][-−+\d.eE,;\s\[\]()]*[\])])\)?",
    re.M,
)


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
    text, written = _without_lists(text)
    reading = read(claims_of(chains(text)))
    numbers = {v: np.asarray(a, np.float64) for v, a in {**reading.given, **written, **given}.items()}
    used = {n.args[0] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name"}
    own = {v: d for v, d in reading.definitions.items() if v not in reading.functions or v in used}  # g(z) is no value
    reading = reading._replace(definitions=own)
    _require(reading, numbers, given)
    reasons = []
    for world in _worlds(reading, numbers):
        try:
            return _worked(_Problem(world, _placed(world, numbers), digits))
        except (ShapeError, UnknownError) as error:
            reasons.append(str(error))
    raise ValueError(f"the equations cannot be worked through: {reasons[0] if reasons else 'they do not fit together'}")


def _require(reading: Reading, numbers: Values, given: Mapping[str, Any]) -> None:
    if reading.loss not in reading.definitions:
        raise ValueError("the text defines no loss: write one, such as L = 1/2 (yhat - y)^2")
    missing = [v for v in reading.free if v not in numbers]
    if missing:
        raise ValueError(f"no number for {', '.join(missing)}: give each, as in {missing[0]}=0.5, or {missing[0]}=1,2")
    unknown = [v for v in given if v not in reading.free]
    if unknown:
        raise ValueError(f"{unknown[0]} is not free in the equations: they need {', '.join(reading.free)}")


def _without_lists(text: str) -> tuple[str, dict[str, np.ndarray]]:
    """The text, and the arrays that stood in it: x = [1, 2], W = [[1, 2], [3, 4]], W = [1 2; 3 4], a pmatrix."""
    found: dict[str, np.ndarray] = {}
    plain = re.sub(r"\\begin\{[pb]matrix\}|\\end\{[pb]matrix\}", lambda m: "[" if "begin" in m[0] else "]", text)
    plain = re.sub(r"\[[^\[\]=]*\]", lambda m: m[0].replace("&", ",").replace("\\\\", ";"), plain)

    def take(match: re.Match) -> str:
        try:
            found.setdefault(match[1], as_array(match[2]))
        except ValueError:
            return match[0]
        return ""

    shorter = LIST.sub(take, plain)
    return (shorter, found) if found else (text, found)


def as_array(text: str) -> np.ndarray:
    """A number, a vector or a matrix as people type it.

    >>> as_array("1, -2").tolist(), as_array("[[1, 2], [3, 4]]").tolist(), as_array("1 2; 3 4").tolist(), as_array("2").tolist()
    ([1.0, -2.0], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], 2.0)
    """
    inside = text.replace("−", "-").replace("(", "[").replace(")", "]").strip()
    rows = re.split(r"\]\s*,?\s*\[|;", inside)
    try:
        lists = [[float(v) for v in re.split(r"[,\s]+", r.strip("[] ,\n")) if v] for r in rows]
        array = np.array(lists, np.float64)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number, nor a list such as 1,2, nor rows such as 1,2;3,4") from None
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{text!r} holds no finite numbers")
    several = len(rows) > 1 or inside.startswith("[[")
    return array if several else array[0] if inside.startswith("[") or array.size > 1 else array[0, 0]


# --- what the text is taken for --------------------------------------------------------------------------------------


def _worlds(reading: Reading, numbers: Values) -> Iterator[World]:
    """Ways to take the text: numbers; or columns, rows, batches that fit the arrays."""
    lettered = any(n.op == "name" and n.args[1] for _, e in reading.definitions.values() for n in nodes(e))
    arrays = any(numbers[v].ndim for v in reading.free)
    with np.errstate(all="ignore"):
        if not arrays or lettered:
            world = choose(reading._replace(given={} if arrays else {v: float(numbers[v]) for v in reading.free}))
            yield from [] if world is None else [world]
        for rows, batch in ((False, False), (True, False), (False, True), (True, True)) if not lettered else ():
            try:
                yield build(reading._replace(given={}), Layout(True, rows, batch), Loss())
            except (ShapeError, UnknownError):
                continue


def _placed(world: World, numbers: Values) -> dict[str, np.ndarray]:
    """Each number or array with its rows and columns, or an axis for each letter.

    Raises:
        ShapeError: one has other sizes than the equations say.
    """
    placed = {}
    for v in world.reading.free:
        a, (slots, rows, columns) = numbers[v], world.sized.names.get(v, ((), 1, 1))
        if slots:
            if a.ndim != len(slots):
                raise ShapeError(f"{v} has {len(slots)} indices, and the numbers given for it {a.ndim}")
            placed[v] = a
            continue
        a = (
            a.reshape(1, 1)
            if a.ndim == 0
            else a
            if a.ndim == 2
            else a[None]
            if world.layout.rows and rows == 1
            else a[:, None]
        )
        if a.ndim != 2 or (rows == 1 < a.shape[0]) or (columns == 1 < a.shape[1]):
            raise ShapeError(f"{v} is {'x'.join(map(str, a.shape))}, and the equations take it for {rows}x{columns}")
        placed[v] = a
    return placed


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
            rows.append(
                row(
                    show_variable((v, letters)),
                    show(e, reading.loss),
                    _in_numbers(problem, e, letters, values, {}),
                    _squeezed(values[v]),
                )
            )
        if values[reading.loss].size != 1:
            raise ShapeError(
                f"{reading.loss} comes to {values[reading.loss].size} numbers, and a loss is one: write ‖…‖² or a sum"
            )
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
        yield row(
            f"d{reading.loss}/d{show_variable((v, letters))}", shown, numbers, _squeezed(found[v]), _squeezed(right)
        )


def _letters_of(reading: Reading, v: str) -> tuple[str, ...]:
    used = (n.args[1] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name" and n.args[0] == v)
    return next(used, ())


def _formulae(world: World, v: str, letters: tuple[str, ...], values: Values) -> Iterator[Expr]:
    """Formulae for the derivative by v that are right at random points: the chain rule's, p − y, then others."""
    left, plain = adjoint(v, letters), None
    try:
        plain = formula_of(world, (v, letters))
    except (ShapeError, UnknownError, ValueError):
        pass
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
    inside = [n.args[0] for n in nodes(definitions[world.reading.loss][1]) if n.op == "name"]
    return [
        (p, y)
        for p in dict.fromkeys(inside)
        for y in dict.fromkeys(inside)
        if p in definitions and y not in definitions
    ]


def _title(problem: _Problem) -> str:
    """How many equations, of what, and which name is the prediction."""
    world, pairs = problem.world, _predictions(problem.world)
    layout = ("one row an example" if world.layout.rows else "vectors are columns") if world.layout.vectors else ""
    said = [f"{len(world.reading.definitions)} equations", layout, f"loss {world.reading.loss}"]
    return "; ".join(
        [part for part in said if part]
        + [f"{p} is the prediction, {y} the target" for p, y in pairs[:1] if len(pairs) == 1]
    )


def _value(problem: _Problem, e: Expr, letters: tuple[str, ...], scope: Scope, shape=None):
    """A formula's value, (rows, columns) or an axis for each of its name's letters."""
    every = {x for n in nodes(e) for x in _letters_in(n)} | set(letters)
    scope = scope._replace(letters=tuple(sorted(every)), sizes=_sizes(problem))
    found = evaluate(e, scope)
    if letters:
        sizes = tuple(scope.sizes.get(x, 1) for x in scope.letters)
        wide = tuple(n if x in letters else 1 for x, n in zip(scope.letters, sizes, strict=True))
        if any(n > 1 and x not in letters for x, n in zip(scope.letters, found.shape, strict=False)):
            raise UnknownError(f"{show(e)} has an index that its name has not")
        spread = (
            found.reshape(found.shape[: len(wide)]) * np.ones(wide)
            if scope.exact
            else np.broadcast_to(found.reshape(found.shape[: len(wide)]), wide)
        )
        kept = spread.reshape([n for x, n in zip(scope.letters, wide, strict=True) if x in letters])
        order = [x for x in scope.letters if x in letters]
        return kept.transpose([order.index(x) for x in letters])
    if any(n > 1 for n in found.shape[:-2]):
        raise UnknownError(f"{show(e)} has an index that its name has not")
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
    for e in [e for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr)] + [
        e for _, e in reading.definitions.values()
    ]:
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
        return (a.reshape(-1, 1) if a.ndim == 1 else a).reshape(
            (1,) * len(scope.letters) + (a.shape if a.ndim == 2 else (-1, 1))
        )
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
    return [
        f"{a} = {b}" for a, b in zip(lines, _texts(problem, e, letters, values, adjoints, slopes=True), strict=True)
    ]


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
    return [s.text for s in np.ravel(_value(problem, e, letters, scope))]
