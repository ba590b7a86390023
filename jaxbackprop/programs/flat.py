"""A function as a flat list of primitive steps, read from its jaxpr, which can be run with any step's results replaced.

`jax.make_jaxpr` writes a function as primitives, with calls in it (`jit`, `checkpoint`, `custom_vjp`, …). `flatten` enters
the calls of some names, so that what is left can be read from top to bottom. Each call has variables of its own: of a function
that is called twice, each step is there twice.

- Custom derivative rules go with the calls that carry them. Where those are entered, the flat program is the plain function,
  which `jax.grad` differentiates by itself; where the rules matter, calls that carry them are left as steps.
- What is computed again for the backward sweep (`jax.checkpoint`) is kept for it once the call is entered.
- `scan`, `while`, `cond`, kernels and the like stay single steps; what is in them is read by `flat` in its turn. A short `scan`
  may be asked for step after step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive
from jax.extend.source_info_util import SourceInfo, summarize, user_context

# calls by what is lost when they are entered, each under the names that versions of JAX give it: nothing, …
PLAIN = ("jit", "pjit", "closed_call", "core_call")
# … that values are computed again, not kept, …
RECOMPUTED = ("remat", "remat2", "checkpoint")
RULELESS = (*PLAIN, *RECOMPUTED)
# … a derivative rule
CUSTOM_JVP, CUSTOM_VJP = "custom_jvp_call", "custom_vjp_call"
CALLS = (*RULELESS, CUSTOM_JVP, CUSTOM_VJP)
SCAN = "scan"
UNROLLED = 1500  # steps that one loop may become, where a loop is entered: compilation takes a second then


@dataclass(frozen=True, eq=False)
class Constant:
    """An operand that is known beforehand."""

    value: Any


Operand = int | Constant


class Step(NamedTuple):
    """One primitive, with what it reads and writes.

    Attributes:
        number: its own in the program.
        primitive: what it computes.
        settings: the primitive's parameters.
        reads: variables (numbers) and constants.
        writes: variables, which no other step writes.
        sources: where it was written, and the calls that it was reached by, the innermost first.
    """

    number: int
    primitive: Primitive
    settings: dict[str, Any]
    reads: tuple[Operand, ...]
    writes: tuple[int, ...]
    sources: tuple[SourceInfo, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    @property
    def line(self) -> str:
        """The user's line that it comes from, as "file:line:column (function)"; "" where none is known."""
        return next(filter(None, map(summarize, self.sources)), "")

    @property
    def place(self) -> tuple[str, int, str] | None:
        """The file, line and function of the first line on the way here that is in no installed package."""
        frames = [frame for source in self.sources if source.traceback for frame in source.traceback.frames]
        own = next((frame for frame in frames if "site-packages" not in frame.file_name), None)
        return (own.file_name, own.line_num, own.function_name) if own else None

    def bind(self, *operands) -> list[Any]:
        """Run the step on the values of its operands; traced anew it keeps the line that it comes from."""
        settings = self.primitive.get_bind_params(self.settings)
        # before 0.9.2 JAX gave a pair
        functions, settings = settings if isinstance(settings, tuple) else ((), settings)
        with user_context(self.sources[0].traceback if self.sources else None):
            results: Any = self.primitive.bind(*functions, *operands, **settings)
        return list(results) if self.primitive.multiple_results else [results]


@dataclass(frozen=True, eq=False)
class Program:
    """A flat function of arrays, (params, *data) → a pytree.

    Attributes:
        steps: in the order in which they run.
        inputs: a variable for each leaf of the arguments; the first `parameters` of them are those of params.
        outputs: a variable or a constant for each leaf of what it returns.
        shapes: of every variable, with its dtype.
        parameters: how many leaves params has.
        structure: of what it returns.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]
    shapes: dict[int, jax.ShapeDtypeStruct]
    parameters: int
    structure: Any

    @cached_property
    def depends(self) -> frozenset[int]:
        """The variables whose value depends on a parameter."""
        return dependent(self.steps, self.inputs[: self.parameters])

    @cached_property
    def live(self) -> frozenset[int]:
        """The variables that the outputs' values depend on."""
        return needed(self.steps, self.outputs)


def flatten(function: Callable, params, *data, inlined: tuple[str, ...] = CALLS) -> Program:
    """Read a function's jaxpr as one flat program, with the calls of some names entered.

    >>> import jax.numpy as jnp
    >>> program = flatten(lambda w, x: jnp.sum(jax.nn.relu(w * x)), jnp.ones(3), jnp.ones(3))
    >>> [step.name for step in program.steps]
    ['mul', 'max', 'reduce_sum']
    >>> program.inputs, program.depends
    ((0, 1), frozenset({0, 2, 3, 4}))
    """
    closed, structure = traced(function, params, *data)
    closed = ClosedJaxpr(closed.jaxpr, [jnp.array(constant) for constant in closed.consts])  # copies: see `traced`
    return flat(closed, len(jax.tree.leaves(params)), structure, inlined)


def flat(closed: ClosedJaxpr, parameters: int = 0, structure: Any = None, inlined: tuple[str, ...] = PLAIN) -> Program:
    """A jaxpr as one flat program; the first so many of its inputs are parameters."""
    steps: list[Step] = []
    shapes: dict[int, jax.ShapeDtypeStruct] = {}

    def numbered(variable) -> int:
        number = len(shapes)
        shapes[number] = jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)
        return number

    def enter(jaxpr: Jaxpr, constants, operands, callers: tuple[SourceInfo, ...]) -> tuple[Operand, ...]:
        names: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(Constant, constants), strict=True))
        names.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom) -> Operand:
            return Constant(atom.val) if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            reads, sources = tuple(map(read, equation.invars)), (equation.source_info, *callers)
            entered = equation.primitive.name in inlined
            called = _called(equation) if entered else None
            if called is not None and equation.primitive.name == SCAN:
                short = equation.params["length"] * len(list(equations(called.jaxpr))) <= UNROLLED
                writes = unroll(equation.params, called, reads, sources) if short else None
            else:
                writes = enter(called.jaxpr, called.consts, reads, sources) if called is not None else None
            if writes is None:
                writes = tuple(map(numbered, equation.outvars))
                steps.append(Step(len(steps), equation.primitive, equation.params, reads, writes, sources))
            names.update(zip(equation.outvars, writes, strict=True))
        return tuple(map(read, jaxpr.outvars))

    def unroll(settings, body: ClosedJaxpr, reads, callers) -> tuple[Operand, ...]:
        """A loop's steps one after the other: its constants, what it carries, and a member at a time of the rest."""
        length, (constants, carried) = settings["length"], loop_of(settings)
        carry, found = reads[constants : constants + carried], []
        for t in reversed(range(length)) if settings["reverse"] else range(length):
            members = [made(partial(_member, t), [operand], callers) for operand in reads[constants + carried :]]
            results = enter(body.jaxpr, body.consts, (*reads[:constants], *carry, *members), callers)
            carry, found = results[:carried], [*found, results[carried:]]
        ordered = reversed(found) if settings["reverse"] else found
        stacked = [made(_stack, list(each), callers) for each in zip(*ordered, strict=True)]
        return (*carry, *stacked)

    def made(function, operands, callers) -> Operand:
        """The steps of a small function of ours, as the caller's."""
        like, before = [shapes[o] if isinstance(o, int) else o.value for o in operands], len(steps)
        (result,) = enter((closed := jax.make_jaxpr(function)(*like)).jaxpr, closed.consts, operands, callers)
        steps[before:] = [step._replace(sources=callers) for step in steps[before:]]
        return result

    inputs = tuple(map(numbered, closed.jaxpr.invars))
    outputs = enter(closed.jaxpr, closed.consts, inputs, ())
    return Program(tuple(steps), inputs, outputs, shapes, parameters, structure)


def run(program: Program, leaves: Sequence[Any], rule: Callable = Step.bind) -> list[Any]:
    """Run a program on the leaves of its arguments; rule(step, *operands) → results may look, and do something else.

    >>> double = flatten(lambda x: 2 * x, 3.0)
    >>> [float(result) for result in run(double, [3.0])]
    [6.0]
    >>> [float(result) for result in run(double, [3.0], lambda step, *operands: [step.bind(*operands)[0] + 1])]
    [7.0]
    """
    values: dict[int, Any] = dict(zip(program.inputs, leaves, strict=True))

    def read(operand: Operand):
        return operand.value if isinstance(operand, Constant) else values[operand]

    for step in program.steps:
        values.update(zip(step.writes, rule(step, *map(read, step.reads)), strict=True))
    return list(map(read, program.outputs))


def as_function(program: Program) -> Callable:
    """The program as a function of the arguments that it was made from, (params, *data) → what that returned.

    What it was made from may close over arrays of NumPy's: what is compiled with 64-bit types both on and off must hold
    copies of them, as a program does (`traced` says why).
    """
    return lambda params, *data: jax.tree.unflatten(program.structure, run(program, jax.tree.leaves((params, data))))


def without_custom_rules(function: Callable) -> Callable:
    """The same function with the calls entered that carry custom derivative rules: JAX differentiates what is inside.

    >>> @jax.custom_vjp
    ... def square(x): return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, d: (3 * x * d,))  # wrong
    >>> float(jax.grad(square)(2.0)), float(jax.grad(without_custom_rules(square))(2.0))
    (6.0, 4.0)
    """
    return lambda *args: as_function(flatten(function, *args))(*args)


# From a function to its jaxpr


def fresh(function: Callable) -> Callable:
    """The same function, which JAX has never seen: it keeps what it traced, but what is closed over may have changed."""
    plain = uncompiled(function)
    return lambda *args: plain(*args)


def uncompiled(function: Callable) -> Callable:
    """What `jax.jit` was given, where the function is its result."""
    return getattr(function, "__wrapped__", function) if hasattr(function, "clear_cache") else function


def traced(function: Callable, *args) -> tuple[ClosedJaxpr, Any]:
    """The function's jaxpr, in the dtypes of these arguments, and the structure of what it returns.

    JAX gives an array of NumPy's one dtype for as long as any compiled function holds it, whatever type the arguments now
    ask for. Where that shows, as operands of two dtypes, everything compiled is forgotten first.
    """
    try:
        closed, structure = _read(function, args)
        if not any(map(_mixed, equations(closed.jaxpr))):
            return closed, structure
    except TypeError:
        pass
    closed = None
    jax.clear_caches()
    return _read(function, args)


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Every equation of a jaxpr, and of those inside it at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for called in inside(equation.params):
            yield from equations(called.jaxpr)


def _read(function: Callable, args) -> tuple[ClosedJaxpr, Any]:
    closed, returned = jax.make_jaxpr(fresh(function), return_shape=True)(*args)
    return closed, jax.tree.structure(returned)


def _mixed(equation) -> bool:
    dtypes = {v.aval.dtype for v in equation.invars if hasattr(v.aval, "dtype")}
    return equation.primitive.name in ("add", "sub", "mul", "div", "max", "min") and len(dtypes) > 1


class Loop(NamedTuple):
    """How many of a scan's operands are constants, and are carried; the rest it takes a member at a time."""

    constants: int
    carried: int


def loop_of(settings: dict[str, Any]) -> Loop:
    """The parts of a scan's operands, as versions of JAX say it."""
    if "num_consts" in settings:
        return Loop(settings["num_consts"], settings["num_carry"])
    constants, carried = (len(list(part)) for part in settings["ft_in"].unpack()[:2])  # since 0.12, by a structure
    return Loop(constants, carried)


def _member(t: int, x):
    return jax.lax.index_in_dim(x, t, keepdims=False)


def _stack(*members):
    return jnp.stack(members)


def _called(equation) -> ClosedJaxpr | None:
    return next(iter(inside(equation.params)), None)


def inside(settings: dict[str, Any]) -> list[ClosedJaxpr]:
    """The jaxprs that a primitive calls: a loop's body, the branches of a condition."""
    values: list[Any] = [
        v for value in settings.values() for v in (value if isinstance(value, tuple | list) else (value,))
    ]
    found: list[Any] = [value for value in values if isinstance(value, ClosedJaxpr | Jaxpr)]
    # since 0.12 both are one class
    return [value if hasattr(value, "consts") else ClosedJaxpr(value, ()) for value in found]


# What reads what


def variables(step: Step) -> list[int]:
    """The variables that a step reads."""
    return [operand for operand in step.reads if isinstance(operand, int)]


def shape_of(program: Program, operand: Operand) -> tuple[int, ...]:
    """The shape of a variable or a constant."""
    return jnp.shape(operand.value) if isinstance(operand, Constant) else program.shapes[operand].shape


def dependent(steps: Iterable[Step], on: Iterable[int]) -> frozenset[int]:
    """The variables whose value depends on some, these themselves among them."""
    found = set(on)
    for step in steps:
        if not found.isdisjoint(variables(step)):
            found.update(step.writes)
    return frozenset(found)


def needed(steps: Sequence[Step], outputs: Iterable[Operand]) -> frozenset[int]:
    """The variables that the value of some depends on, these themselves among them."""
    found = {operand for operand in outputs if isinstance(operand, int)}
    for step in reversed(steps):
        if not found.isdisjoint(step.writes):
            found.update(variables(step))
    return frozenset(found)
