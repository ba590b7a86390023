"""Mistakes at any step of the value's program: what comes back through an operand is left out, scaled or formed otherwise.

Backpropagation through a step v = f(u, a) gives du = (∂f/∂u)ᵀ dv. A backward pass written by hand has a line for each of these,
and most mistakes change one: a path is left out (the mean's in layer normalisation), scaled (1/√d), passed on without the
derivative (a mask), or formed with another array (a flipped kernel, h_t for h_{t−1}). With δa = a − stop_gradient(a), which is 0
with derivative 1, each is made on purpose by a switch θ:

    v ← v + θ (wrong − own),     own = δ f(u, ā),  wrong = 0, δu, δ f(u, ā') or another term   (ā: a held fixed)

Where only a path is left out, the gradient is R + θ D: so the error tells the factor too, 1 − θ, that the path was given in place
of 1. In a loop, be it written out, the same line runs again and again: there a mistake is made at all of its steps at once.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.diagnosis import guess, roots, values_of
from jaxbackprop.programs.flat import Constant, Program, Step, inside, run, variables

MOST, TOGETHER = 256, 32  # changes tried, and how many in one program
STEPS = 4000  # that are compiled for them, at about one millisecond each
BILINEAR = ("mul", "dot_general", "conv_general_dilated")
ANCESTORS = 3  # values that an operand is made from, and that may stand in its place
COMPOSED = 8  # steps back from where a softmax or a normalisation ends
SINGLES = 4  # steps of a loop that are looked at one by one, at most
fixed = jax.lax.stop_gradient


class Site(NamedTuple):
    """A step, and the operand that the path comes through; None: all of them."""

    step: int
    position: int | None


class Here(NamedTuple):
    """What a mistake is made with.

    Attributes:
        t: which of its sites this is.
        step: the step there.
        operands: what the step reads.
        found: the variables so far.
        right: all variables, to be held fixed.
    """

    t: int
    step: Step
    operands: Sequence[Any]
    found: dict[int, Any]
    right: dict[int, Any]


class Change(NamedTuple):
    """A mistake to make at some sites at once.

    Attributes:
        kind: of mistake.
        sites: where.
        wrong: `Here` → a term that is zero, and its derivative is what the mistake passes on.
        text: in words.
        scales: what is said of a factor; "" where the mistake has none.
        sizes: numbers that a factor may come from.
    """

    kind: str
    sites: tuple[Site, ...]
    wrong: Callable[[Here], Any]
    text: str
    scales: str = ""
    sizes: tuple[int, ...] = ()

    def said(self, theta: float) -> str:
        """The mistake in words, made so many times."""
        factor = 1 - theta
        if abs(factor) < 1e-4 or not self.scales:
            return self.text
        if abs(factor + 1) < 1e-4:
            return f"{self.scales} has the wrong sign"
        return f"{self.scales} is {factor:.6g} times what it should be{guess(factor, self.sizes)}"


def with_changes(program: Program, some: Sequence[Change]) -> Callable:
    """The program's value as a function of (switches θ, parameter leaves, data leaves), one switch for each change."""
    at: dict[int, list] = {}
    for i, change in enumerate(some):
        for t, site in enumerate(change.sites):
            at.setdefault(site.step, []).append((i, t, site.position, change.wrong))

    def value(theta, params, data):
        leaves = [*params, *data]
        right, found = values_of(program, leaves), dict(zip(program.inputs, leaves, strict=True))

        def rule(step, *operands):
            results = step.bind(*operands)
            found.update(zip(step.writes, results, strict=True))
            terms = [
                (theta[i] * (wrong(Here(t, step, operands, found, right)) - _own(step, operands, position))).astype(
                    results[0].dtype
                )
                for i, t, position, wrong in at.get(step.number, ())
            ]
            changed = [sum(terms, start=results[0]), *results[1:]]
            found.update(zip(step.writes, changed, strict=True))
            return changed

        return run(program, leaves, rule)[0]

    return value


@lru_cache(maxsize=16)
def compiled(program: Program) -> list[tuple[list[Change], Callable]]:
    """The changes of a program in groups, with the gradient of each group: (θ, parameter leaves, data leaves) → leaves."""
    most = min(MOST, TOGETHER * max(1, STEPS // len(program.steps)))  # of a long program fewer, as each is compiled
    some = list(itertools.islice(changes(program), most))
    groups = [some[i : i + TOGETHER] for i in range(0, len(some), TOGETHER)]
    return [(group, jax.jit(jax.grad(with_changes(program, group), argnums=1))) for group in groups]


def changes(program: Program) -> Iterator[Change]:
    """The changes that can be made in this program, the likelier first."""
    edges = _edges(program)
    yield from _left_out(program, edges)
    yield from _passed_on(program, edges)
    yield from _formed_otherwise(program, edges)
    yield from _composed(program)
    yield from _looked_up(program)


def _delta(x):
    return x - fixed(x)


def _own(step: Step, operands, position: int | None):
    """What the step passes on through one operand."""
    if position is None:
        return _delta(step.bind(*operands)[0])
    return _delta(step.bind(*(o if j == position else fixed(o) for j, o in enumerate(operands)))[0])


# Where


class Edge(NamedTuple):
    """An operand that depends on a parameter, of one line's steps: in a loop there are several."""

    steps: tuple[Step, ...]
    position: int

    @property
    def sites(self) -> tuple[Site, ...]:
        """All of them."""
        return tuple(Site(step.number, self.position) for step in self.steps)

    @property
    def reads(self) -> tuple[Any, ...]:
        """The operand, step by step."""
        return tuple(step.reads[self.position] for step in self.steps)


def _edges(program: Program) -> list[Edge]:
    found: dict[Any, list[Step]] = {}
    for step in program.steps:
        for position, operand in enumerate(step.reads):
            if isinstance(operand, int) and _felt(program, operand) and _gives_one(program, step):
                shapes = tuple(program.shapes[v].shape for v in (operand, step.writes[0]))
                found.setdefault((step.name, step.line or step.number, position, shapes), []).append(step)
    return [Edge(tuple(steps), position) for (_, _, position, _), steps in found.items()]


def _felt(program: Program, operand: Any) -> bool:
    return (
        isinstance(operand, int)
        and operand in program.depends
        and jnp.issubdtype(program.shapes[operand].dtype, jnp.floating)
    )


def _gives_one(program: Program, step: Step) -> bool:
    """Whether a step gives one array of real numbers that counts; a comparison gives truths, which have no derivative.

    A loop or a solver is no line of anybody's: its operands are not held fixed one by one.
    """
    alone = len(step.writes) == 1 and not inside(step.settings)
    return alone and step.writes[0] in program.live and _felt(program, step.writes[0])


def _some(sites: tuple[Site, ...]) -> Iterator[tuple[tuple[Site, ...], str]]:
    """All the steps of a loop, then all but an end, then each; in words."""
    count = len(sites)
    yield sites, ""
    if count > 2:
        yield sites[:-1], " at each step but the last"
        yield sites[1:], " at each step but the first"
    if 1 < count <= SINGLES:
        yield from (((site,), f" at step {t} of {count}") for t, site in enumerate(sites))


# A path left out, or scaled


def _left_out(program: Program, edges: list[Edge]) -> Iterator[Change]:
    readers = Counter(v for step in program.steps for v in variables(step) if v in program.depends)

    def nothing(_: Here):
        return 0.0

    def made(sites, path, where, sizes):
        text = f"{path} is left out{where}"
        return Change("path missing", sites, nothing, text, f"{path}{where}", sizes)

    for edge in edges:
        step = edge.steps[0]
        alone = sum(_felt(program, operand) for operand in step.reads) == 1
        if alone and all(readers[v] == 1 for v in edge.reads):
            continue  # the same as further on
        path = f"what comes back through {_operand(program, edge)}"
        for sites, where in _some(edge.sites):
            yield made(sites, path, where, _sizes(program, step))
    statistics = tuple(site for edge in edges if _is_statistic(program, edge) for site in edge.sites)
    if len(statistics) > 1:
        text = (
            "the statistics (means, variances, sums) are taken as constants: what comes back through them is left out"
        )
        yield Change("path missing", statistics, nothing, text)
    wholes: dict[Any, list[Step]] = {}
    for step in program.steps:
        if _gives_one(program, step):
            several = sum(_felt(program, operand) for operand in step.reads) > 1
            if several or readers[step.writes[0]] > 1:
                shape = program.shapes[step.writes[0]].shape
                wholes.setdefault((step.name, step.line or step.number, shape), []).append(step)
    for steps in wholes.values():
        path = f"what comes back to {_at(steps[0])}"
        yield made(tuple(Site(step.number, None) for step in steps), path, "", _sizes(program, steps[0]))


def _is_statistic(program: Program, edge: Edge) -> bool:
    """Whether an operand is a mean, a variance or the like, spread again over what it was taken of."""
    producers = {v: step for step in program.steps for v in step.writes}
    step = producers.get(edge.reads[0])
    if step is None or step.name != "broadcast_in_dim":
        return False
    while step is not None and not step.name.startswith("reduce_"):
        before = [v for v in variables(step) if v in program.depends]
        step = producers.get(before[0]) if len(before) == 1 else None
    return step is not None


# The derivative left out


def _passed_on(program: Program, edges: list[Edge]) -> Iterator[Change]:
    """δu, or u δu, where the derivative of a step, or of all steps from z to h, belongs."""
    for edge in edges:
        step, u = edge.steps[0], edge.reads[0]
        if step.name in ("add", "sub", "add_any", "neg", "copy", "convert_element_type"):
            continue
        if program.shapes[u].shape == program.shapes[step.writes[0]].shape:

            def wrong(here: Here, position=edge.position):
                return _delta(here.operands[position])

            text = (
                f"the derivative of {_at(step)} is left out: what comes back passes {_operand(program, edge)} as it is"
            )
            yield Change("derivative missing", edge.sites, wrong, text)
            if step.name in ("tanh", "logistic"):

                def at_z(here: Here):
                    (z,) = here.operands
                    return fixed(1 - z * z if here.step.name == "tanh" else z * (1 - z)) * _delta(z)

                yield Change(
                    "value for derivative", edge.sites, at_z, f"g' of {_at(step)} is formed with z where h belongs"
                )
    root = roots(program)
    ends = {v: z for v, z in root.items() if v not in root.values()}
    groups: dict[Any, list[tuple[Step, int]]] = {}
    for step in program.steps:
        if _gives_one(program, step) and step.writes[0] in ends and _felt(program, ends[step.writes[0]]):
            groups.setdefault((step.name, step.line or step.number), []).append((step, ends[step.writes[0]]))
    for some in groups.values():
        sites = tuple(Site(step.number, None) for step, _ in some)
        sources = [z for _, z in some]

        def passed(here: Here, sources=sources):
            return _delta(here.found[sources[here.t]])

        def value(here: Here, sources=sources):
            return fixed(here.found[here.step.writes[0]]) * _delta(here.found[sources[here.t]])

        place = _at(some[0][0])
        yield Change("derivative missing", sites, passed, f"the derivative up to {place} is left out of dz = dh·g'(z)")
        yield Change(
            "value for derivative", sites, value, f"g(z), the value, stands for g'(z) at the steps up to {place}"
        )


# A product formed with another array


def _formed_otherwise(program: Program, edges: list[Edge]) -> Iterator[Change]:
    for edge in edges:
        step = edge.steps[0]
        if step.name not in BILINEAR or len(step.reads) != 2:
            continue
        others = [one.reads[1 - edge.position] for one in edge.steps]
        shape = jnp.shape(others[0].value) if isinstance(others[0], Constant) else program.shapes[others[0]].shape
        if not shape:
            continue
        through, other = _operand(program, edge), _variable(program, others[-1])
        for words, turn in _turns(step, 1 - edge.position, shape):
            text = f"what comes back through {through} is formed with {other} {words}"
            yield Change("weights", edge.sites, _with(edge.position, turn), text)
        for words, turn in _turns(step, None, program.shapes[step.writes[0]].shape):

            def turned(here: Here, turn=turn, position=edge.position):
                return turn(_own(here.step, here.operands, position))

            text = f"what comes back through {through} is formed with dv of its result {words}"
            yield Change("weights", edge.sites, turned, text)
        for words, in_place in _in_place(program, others):
            text = f"what comes back through {through} is formed with {words}, where {other} belongs"
            yield Change("source", edge.sites, _with(edge.position, None, in_place), text)


def _with(position: int, turn: Callable | None, in_place: Sequence[Any] = ()) -> Callable:
    """The term of a product whose other operand is turned, or is another variable."""

    def wrong(here: Here):
        other = here.operands[1 - position]
        if turn is not None:
            other = turn(other)
        elif in_place[here.t] is None:
            other = jnp.zeros_like(other)
        else:
            other = jnp.asarray(here.right[in_place[here.t]], other.dtype)
        pair = [fixed(other), here.operands[position]]
        return _delta(here.step.bind(*(pair if position else pair[::-1]))[0])

    return wrong


def _turns(step: Step, position: int | None, shape) -> Iterator[tuple[str, Callable]]:
    """An operand (None: the result) with two axes swapped, or, of a convolution, reversed or shifted along an axis."""
    if step.name == "mul":
        return
    for i, j in itertools.combinations(range(len(shape)), 2):
        if shape[i] == shape[j] > 1:
            words = "transposed" if len(shape) == 2 else f"with its axes {i} and {j} swapped"
            yield words, lambda a, i=i, j=j: jnp.swapaxes(a, i, j)
    if step.name == "conv_general_dilated" and position is not None:
        spec = step.settings["dimension_numbers"]
        for axis in (spec.rhs_spec if position else spec.lhs_spec)[2:]:
            yield f"flipped along axis {axis}", lambda a, axis=axis: jnp.flip(a, axis)
            for by in (1, -1):
                yield f"shifted by one along axis {axis}", lambda a, axis=axis, by=by: shifted(a, axis, by)


def shifted(a, axis: int, by: int):
    """An array moved by one along an axis, zeros moving in.

    >>> [shifted(jnp.arange(1, 4), 0, by).tolist() for by in (1, -1)]
    [[0, 1, 2], [2, 3, 0]]
    """
    edge = jnp.arange(a.shape[axis]) == (0 if by > 0 else a.shape[axis] - 1)
    return jnp.where(edge.reshape([-1 if k == axis else 1 for k in range(a.ndim)]), 0, jnp.roll(a, by, axis))


def _in_place(program: Program, others) -> Iterator[tuple[str, list]]:
    """What may stand for the other operand: what it is made from; in a loop, another step's."""
    if not all(isinstance(other, int) for other in others):
        return
    if len(others) > 1 and len(set(others)) == len(others):
        yield "the array of the step after it", [*others[1:], _last(program, others)]
        yield "the array of the step before it", [None, *others[:-1]]
        yield "the arrays in reversed order", others[::-1]
    before = [list(itertools.islice(_ancestors(program, other), ANCESTORS)) for other in others]
    for made in zip(*before, strict=False):
        yield f"{_variable(program, made[-1])}, from which it is made", list(made)


def _last(program: Program, others) -> int | None:
    """What a loop carries on after its last step: made by the same line as what the steps before took."""
    producers = {v: step for step in program.steps for v in step.writes}
    made = producers.get(others[1])
    if made is None:
        return None
    same = [s for s in program.steps if (s.name, s.line) == (made.name, made.line) and len(s.writes) == 1]
    written = [s.writes[0] for s in same if program.shapes[s.writes[0]] == program.shapes[others[1]]]
    return written[written.index(others[-1]) + 1] if others[-1] in written[:-1] else None


def _ancestors(program: Program, variable: int) -> Iterator[int]:
    """What a variable is made from, of its shape, the nearest first."""
    producers = {v: step for step in program.steps for v in step.writes}
    left, known = [variable], {variable}
    while left:
        step = producers.get(left.pop(0))
        for v in variables(step) if step is not None else ():
            if v not in known:
                known.add(v)
                left.append(v)
                if program.shapes[v].shape == program.shapes[variable].shape:
                    yield v


# What several steps make together: a softmax, a normalisation


def _composed(program: Program) -> Iterator[Change]:
    """Where a value meets a statistic of itself: the derivative of all from z on left out, or the division on its way back."""
    for step in program.steps:
        if not _gives_one(program, step) or step.name not in ("div", "mul", "sub"):
            continue
        if sum(isinstance(operand, int) and _felt(program, operand) for operand in step.reads) < 2:
            continue
        sites = (Site(step.number, None),)
        if step.name == "div":
            text = f"what comes back from {_at(step)} is not divided by {_variable(program, step.reads[1])}"
            yield Change("path missing", sites, _undivided, text)
        for z in itertools.islice(_ancestors(program, step.writes[0]), COMPOSED):
            if _felt(program, z):

                def passed(here: Here, z=z):
                    return _delta(here.found[z])

                text = f"the derivative from {_variable(program, z)} to {_at(step)} is left out"
                yield Change("derivative missing", sites, passed, text)


def _undivided(here: Here):
    return _delta(here.step.bind(*here.operands)[0]) * fixed(here.operands[1])


# A table of which rows are looked up


def _looked_up(program: Program) -> Iterator[Change]:
    """Of a row that is looked up twice only the last counts: it was set, where it had to be added to."""
    for step in program.steps:
        if step.name == "gather" and _felt(program, step.reads[0]) and _gives_one(program, step):

            def wrong(here: Here):
                looked_up = here.operands[1]
                ids = looked_up.reshape(-1, looked_up.shape[-1])
                same = jnp.all(ids[:, None] == ids[None], axis=-1)
                last = ~jnp.any(jnp.triu(same, 1), axis=1).reshape(looked_up.shape[:-1])
                own = _own(here.step, here.operands, 0)
                offset = here.step.settings["dimension_numbers"].offset_dims
                return own * jnp.expand_dims(last, [axis for axis in offset if axis < own.ndim])

            text = f"of what is looked up twice in {_variable(program, step.reads[0])} only the last counts: set, not added?"
            yield Change("path missing", (Site(step.number, 0),), wrong, text)


# Words


def _at(step: Step) -> str:
    return f"{step.name} at {Path(step.place[0]).name}:{step.place[1]}" if step.place else step.name


def _operand(program: Program, edge: Edge) -> str:
    step = edge.steps[0]
    return f"{_variable(program, edge.reads[-1])} into {_at(step)}"


def _variable(program: Program, variable) -> str:
    """What a variable is: a parameter, data, or the step that says most of how it was made."""
    if not isinstance(variable, int):
        return "a constant"
    if variable in program.inputs:
        i = program.inputs.index(variable)
        return f"{{{i}}}" if i < program.parameters else "the data"
    step = next(step for step in program.steps if variable in step.writes)
    passed = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy", "expand_dims")
    while step.name in passed and isinstance(step.reads[0], int):
        if step.reads[0] in program.inputs:
            return _variable(program, step.reads[0])
        before = step.reads[0]
        step = next(step for step in program.steps if before in step.writes)
    return _at(step)


def _sizes(program: Program, step: Step) -> tuple[int, ...]:
    shapes = [program.shapes[v].shape for v in (*variables(step), *step.writes)]
    sizes = {n for shape in shapes for n in (*shape, math.prod(shape)) if n > 1}
    return tuple(sorted(sizes))


def named(text: str, names: Sequence[str]) -> str:
    """Parameters by their names.

    >>> named("through {1} into add", ["w", "b"])
    'through b into add'
    """
    for i, name in enumerate(names):
        text = text.replace(f"{{{i}}}", name)
    return text


def factor_of(error: Sequence[np.ndarray], change: Sequence[np.ndarray], sizes: Sequence[float]) -> float:
    """How many times a change must be made to explain an error, each parameter's in units of its own size."""
    product = sum(float(np.sum(e * d)) / s**2 for e, d, s in zip(error, change, sizes, strict=True))
    square = sum(float(np.sum(d * d)) / s**2 for d, s in zip(change, sizes, strict=True))
    return product / square if square > 0 and np.isfinite(product) else 0.0
