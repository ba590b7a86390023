"""A function as a flat list of primitive steps, read from its jaxpr: where it decides, what it multiplies, how long it sums.

`jax.make_jaxpr` writes a function as primitives, with calls in it (`jit`, `checkpoint`, `custom_vjp`, …). `flatten` inlines
the calls, so that what is left can be read from top to bottom:

- A *decision* is a primitive whose derivative jumps: a comparison, max, abs, floor, … Its *side* is the sign of what it
  compares: −1, 0 (exactly at the kink) or +1. Where no side changes between two points, no kink lies between them.
- Custom derivative rules go with the calls that carry them: the flat program is the plain function, which `jax.grad`
  differentiates by itself. Where the rules matter, calls that carry them are left as steps.

`scan`, `while`, `cond`, kernels, pooling and the like stay single steps: what they decide is not seen, and `opaque` says so.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive

from jaxbackprop.checking.leaves import narrowest_of

RULELESS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
WITHOUT_VJP = (*RULELESS, "custom_vjp_call")
CALLS = (*WITHOUT_VJP, "custom_jvp_call")
OPAQUE = (
    *("scan", "while", "cond", "pallas_call", "pure_callback", "io_callback", "shard_map", "ffi_call", "custom_call"),
    # and what decides, but by more than a sign
    *("reduce_window_max", "reduce_window_min", "reduce_window", "select_and_scatter", "select_and_gather_add", "rem"),
    *("cummax", "cummin", "top_k", "approx_top_k", "scatter_max", "scatter_min"),
)
SMALL = 1e-290  # beside 0, and no denormal number


@dataclass(frozen=True, eq=False)
class Constant:
    """An operand that is known beforehand."""

    value: Any


Operand = int | Constant


class Step(NamedTuple):
    """One primitive: the variables (numbers) and constants that it reads, the variables that it writes."""

    primitive: Primitive
    settings: dict[str, Any]
    reads: tuple[Operand, ...]
    writes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    def bind(self, *operands) -> list[Any]:
        """Run the step on the values of its operands."""
        settings = self.primitive.get_bind_params(self.settings)
        # older versions of JAX give a pair
        functions, settings = settings if isinstance(settings, tuple) else ((), settings)
        results: Any = self.primitive.bind(*functions, *operands, **settings)
        return list(results) if self.primitive.multiple_results else [results]


@dataclass(frozen=True)
class Program:
    """A flat function of arrays.

    Attributes:
        steps: in the order in which they run.
        inputs: a variable for each leaf of the arguments; the first `parameters` of them are differentiated.
        outputs: what it returns.
        shapes: of every variable, as `jax.ShapeDtypeStruct`.
        depends: variables whose value depends on a parameter.
        live: variables that the output's value depends on.
        felt: variables that its derivative passes through.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]
    shapes: dict[int, jax.ShapeDtypeStruct]
    parameters: int
    depends: frozenset[int]
    live: frozenset[int]
    felt: frozenset[int]

    @property
    def opaque(self) -> tuple[str, ...]:
        """Names of the steps that cannot be looked into."""
        return tuple(sorted({step.name for step in self.steps if step.name in OPAQUE and self._matters(step)}))

    @property
    def decisions(self) -> tuple[Step, ...]:
        """The steps whose derivative jumps where their side changes."""
        return tuple(step for step in self.steps if step.name in SIDES and self._matters(step) and self._decides(step))

    @property
    def held(self) -> tuple[Step, ...]:
        """The steps that the derivative takes as constant though their value depends on a parameter."""
        return tuple(step for step in self.steps if step.name == "stop_gradient" and self._matters(step))

    def _matters(self, step: Step) -> bool:
        return any(v in self.depends for v in variables(step)) and any(v in self.live for v in step.writes)

    def _decides(self, step: Step) -> bool:
        if step.name in EXTREMES:  # of log Σ eᶻ = m + log Σ e^(z − m) the derivative does not feel m = max z
            return any(v in self.felt for v in step.writes)
        compared = [self.shapes[v].dtype for v in variables(step) if v in self.depends]
        if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in compared):
            return False  # integers and truths were decided before
        if step.name not in COMPARISONS:
            return True
        # x ≠ x asks for NaN, and max(x, −inf) for nothing
        infinite = any(isinstance(o, Constant) and np.isinf(np.asarray(o.value, np.float64)).any() for o in step.reads)
        return step.reads[0] != step.reads[1] and not infinite


def fresh(function: Callable) -> Callable:
    """The same function, which JAX has never seen: it keeps what it traced, but what is closed over may have changed."""
    plain = getattr(function, "__wrapped__", function) if hasattr(function, "clear_cache") else function  # of jax.jit
    return lambda *args: plain(*args)


def traced(function: Callable, *args) -> ClosedJaxpr:
    """The function's jaxpr, in the dtypes of these arguments.

    JAX gives an array of NumPy's one dtype for as long as any compiled function holds it, whatever type the arguments now
    ask for. Where that shows, as operands of two dtypes, everything compiled is forgotten first.
    """
    try:
        closed = jax.make_jaxpr(fresh(function))(*args)
        if not any(map(_mixed, _equations(closed.jaxpr))):
            return closed
    except TypeError:
        pass
    closed = None
    jax.clear_caches()
    return jax.make_jaxpr(fresh(function))(*args)


def _mixed(equation) -> bool:
    dtypes = {v.aval.dtype for v in equation.invars if hasattr(v.aval, "dtype")}
    return equation.primitive.name in ("add", "sub", "mul", "div", "max", "min") and len(dtypes) > 1


def flatten(function: Callable, params, *data, inlined: tuple[str, ...] = CALLS) -> Program:
    """Read a function's jaxpr as one flat program, with the calls of some names inlined.

    >>> import jax.numpy as jnp
    >>> program = flatten(lambda w, x: jnp.sum(jax.nn.relu(w * x)), jnp.ones(3), jnp.ones(3))
    >>> [step.name for step in program.steps], [step.name for step in program.decisions]
    (['mul', 'max', 'reduce_sum'], ['max'])
    """
    closed = traced(function, params, *data)
    steps: list[Step] = []
    shapes: dict[int, jax.ShapeDtypeStruct] = {}
    numbers = itertools.count()

    def numbered(variable) -> int:
        number = next(numbers)
        shapes[number] = jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)
        return number

    def inline(jaxpr: Jaxpr, constants: Sequence[Any], operands: Sequence[Operand]) -> tuple[Operand, ...]:
        names: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(_copied, constants), strict=True))
        names.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom) -> Operand:
            return Constant(atom.val) if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            reads = tuple(map(read, equation.invars))
            called = _called(equation) if equation.primitive.name in inlined else None
            if called is not None:
                writes = inline(called.jaxpr, called.consts, reads)
            else:
                writes = tuple(map(numbered, equation.outvars))
                steps.append(Step(equation.primitive, equation.params, reads, writes))
            names.update(zip(equation.outvars, writes, strict=True))
        return tuple(map(read, jaxpr.outvars))

    inputs = tuple(map(numbered, closed.jaxpr.invars))
    outputs = inline(closed.jaxpr, closed.consts, inputs)
    parameters = len(jax.tree.leaves(params))
    return Program(
        tuple(steps),
        inputs,
        outputs,
        shapes,
        parameters,
        _depends(steps, inputs[:parameters]),
        _live(steps, outputs),
        _live([step for step in steps if step.name != "stop_gradient"], outputs),
    )


def _copied(constant) -> Constant:
    return Constant(jnp.array(constant))  # a copy: see `traced`


def run(program: Program, leaves: Sequence[Any], visit: Callable | None = None) -> list[Any]:
    """Run a program on the leaves of its arguments; visit(step, values, results) → results may look, and may change them.

    >>> double = flatten(lambda x: 2 * x, 3.0)
    >>> [float(result) for result in run(double, [3.0])]
    [6.0]
    """
    values: dict[int, Any] = dict(zip(program.inputs, leaves, strict=True))

    def read(operand: Operand):
        return operand.value if isinstance(operand, Constant) else values[operand]

    for step in program.steps:
        operands = list(map(read, step.reads))
        results = step.bind(*operands)
        if visit is not None:
            results = visit(step, operands, results)
        values.update(zip(step.writes, results, strict=True))
    return list(map(read, program.outputs))


def as_function(program: Program) -> Callable:
    """The program as a function of the arguments that it was made from, (params, *data) → its first output.

    What it was made from may close over arrays of NumPy's: what is compiled with 64-bit types both on and off must hold
    copies of them, as a program does (`traced` says why).
    """
    return lambda params, *data: run(program, jax.tree.leaves((params, data)))[0]


def value_and_sides(program: Program, leaves: Sequence[Any], hold: Any = False, held: Sequence[Any] = ()):
    """The program's value, the sides of each of its decisions as integer arrays, and what stop_gradient was given.

    With `hold` true what stop_gradient gives is not computed but taken from `held`: the derivative takes it as constant, so
    that differences must too.
    """
    decisions, holding = set(map(id, program.decisions)), set(map(id, program.held))
    sides, given = [], []

    def visit(step, operands, results):
        if id(step) in decisions:
            sides.append(SIDES[step.name](operands, step.settings))
        if id(step) in holding:
            given.append(results[0])
            return [jnp.where(hold, held[len(given) - 1], results[0])] if len(held) else results
        return results

    value, *_ = run(program, leaves, visit)
    return value, sides, given


def with_ties_broken(program: Program) -> Callable:
    """The program's value as a function of (signs, parameter leaves, data leaves): no decision sits on its kink.

    What a decision compares is moved by a rounding error where it is exactly equal, up or down as its sign says. So
    `jax.grad` gives the derivative of one choice at each kink; any other is a mixture of these.
    """
    decisions = {id(step): i for i, step in enumerate(ties(program))}

    def value(signs, params, data):
        def visit(step, operands, results):
            if id(step) not in decisions:
                return results
            sign = signs[decisions[id(step)]]
            if step.name == "clamp":
                low, x, high = operands
                moved = [low, _moved(x, (x == low) | (x == high), sign), high]
            elif len(operands) == 1:
                moved = [_moved(operands[0], operands[0] == 0, sign)]
            else:
                moved = [_moved(operands[0], operands[0] == operands[1], sign), operands[1]]
            return step.bind(*moved)

        return run(program, [*params, *data], visit)[0]

    return value


def ties(program: Program) -> list[Step]:
    """The decisions that compare two numbers, or one with 0."""
    return [step for step in program.decisions if step.name in (*TWO_SIDED, "clamp")]


def _moved(x, tied, sign):
    step = jnp.where(x == 0, SMALL, jnp.abs(x) * jnp.finfo(x.dtype).eps) * sign
    return x + jax.lax.stop_gradient(jnp.where(tied, step, 0)).astype(x.dtype)


def without_custom_rules(function: Callable, *args) -> Callable:
    """The same function with the calls inlined that carry custom derivative rules: JAX differentiates what is inside.

    >>> @jax.custom_vjp
    ... def square(x): return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, d: (3 * x * d,))  # wrong
    >>> float(jax.grad(square)(2.0)), float(jax.grad(without_custom_rules(square, 2.0))(2.0))
    (6.0, 4.0)
    """
    structure = jax.tree.structure(jax.eval_shape(fresh(function), *args))

    def plain(*args):
        return jax.tree.unflatten(structure, run(flatten(function, *args), jax.tree.leaves(args)))

    return plain


def longest_sum(program: Program) -> int:
    """How many terms the longest sum has, in the program or in its derivative.

    >>> longest_sum(flatten(lambda w, x: jnp.sum(x @ w), jnp.ones((3, 4)), jnp.ones((50, 3))))
    200
    """
    longest = 1
    for step in program.steps:
        shapes = [_shape(program, operand) for operand in step.reads]
        written = program.shapes[step.writes[0]].shape if step.writes else ()
        if step.name == "dot_general":
            (contracted, _), (batch, _) = step.settings["dimension_numbers"]
            summed, shared = (math.prod(shapes[0][axis] for axis in axes) for axes in (contracted, batch))
            longest = max(longest, summed, *(math.prod(shape) // max(summed * shared, 1) for shape in shapes))
        elif step.name == "conv_general_dilated":
            kernel, spec = shapes[1], step.settings["dimension_numbers"].rhs_spec
            longest = max(longest, math.prod(kernel) // kernel[spec[0]], math.prod(written) // kernel[spec[0]])
        elif step.name.startswith("cum"):
            longest = max(longest, shapes[0][step.settings["axis"]])
        elif step.name in ("reduce_sum", "broadcast_in_dim", "reduce_window_sum") and shapes:
            sizes = math.prod(shapes[0]), math.prod(written)
            longest = max(longest, *(a // max(b, 1) for a, b in (sizes, sizes[::-1])))
    return longest


def narrowest(function: Callable, *args) -> str:
    """The narrowest floating-point type that a function computes in, given its arguments; "" where it cannot be traced.

    >>> narrowest(lambda x: x.astype("bfloat16") + 1, jnp.ones(3))
    'bfloat16'
    """
    try:
        closed = traced(function, *args)
    except Exception:  # anyone's code: NumPy or another framework says so in its own way
        return ""
    avals: list[Any] = [variable.aval for equation in _equations(closed.jaxpr) for variable in equation.outvars]
    computed = [aval.dtype for aval in avals if hasattr(aval, "dtype")]
    return narrowest_of([*computed, *(jnp.result_type(leaf) for leaf in jax.tree.leaves(args))])


def variables(step: Step) -> list[int]:
    """The variables that a step reads."""
    return [operand for operand in step.reads if isinstance(operand, int)]


def _sign(difference):
    return jnp.sign(difference).astype(jnp.int32)


def _compared(operands, _settings):
    return _sign(operands[0] - operands[1])


def _clamped(operands, _settings):
    low, x, high = operands
    return jnp.stack(jnp.broadcast_arrays(_sign(x - low), _sign(x - high)))


def _rounded(operands, _settings):
    (x,) = operands
    return jnp.floor(2 * x).astype(jnp.int32)  # floor and ceil jump at integers, round at halves


def _largest(operands, settings):
    axes = tuple(settings["axes"])
    x = jnp.moveaxis(operands[0], axes, range(len(axes)))
    return jnp.argmax(x.reshape(-1, *x.shape[len(axes) :]), axis=0).astype(jnp.int32)


def _smallest(operands, settings):
    return _largest([-operands[0]], settings)


def _ordered(operands, settings):
    return jnp.argsort(operands[0], axis=settings["dimension"]).astype(jnp.int32)


COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne", "max", "min")
SIDES: dict[str, Callable] = {
    **dict.fromkeys(COMPARISONS, _compared),
    **dict.fromkeys(("abs", "sign"), lambda operands, _: _sign(operands[0])),
    **dict.fromkeys(("floor", "ceil", "round"), _rounded),
    **dict.fromkeys(("reduce_max", "argmax"), _largest),
    **dict.fromkeys(("reduce_min", "argmin"), _smallest),
    "clamp": _clamped,
    "sort": _ordered,
}
EXTREMES = ("reduce_max", "reduce_min", "argmax", "argmin", "sort")
# of these the side is a sign, and both signs can be asked for
TWO_SIDED = (*COMPARISONS, "abs", "sign")


def _called(equation) -> ClosedJaxpr:
    inner = next(value for value in equation.params.values() if isinstance(value, ClosedJaxpr | Jaxpr))
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _equations(jaxpr: Jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def _depends(steps, parameters) -> frozenset[int]:
    found = set(parameters)
    for step in steps:
        if any(v in found for v in variables(step)):
            found |= set(step.writes)
    return frozenset(found)


def _live(steps, outputs) -> frozenset[int]:
    found = {v for v in outputs if isinstance(v, int)}
    for step in reversed(steps):
        if any(v in found for v in step.writes):
            found |= set(variables(step))
    return frozenset(found)


def _shape(program, operand) -> tuple[int, ...]:
    return jnp.shape(operand.value) if isinstance(operand, Constant) else program.shapes[operand].shape
