"""The mistakes at any step of the value's program, as a backward pass that is written by hand has a line for each.

A path is left out (the mean's in layer normalisation) or scaled (1/√d), passed on without the derivative (a mask), or formed
with another array (a flipped kernel, h_t for h_{t−1}); of what several steps make together, as a softmax, the derivative is
left out; of what is looked up twice in a table only the last is added.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from jaxbackprop.checking.lines import Edge, at, edges_of, felt, gives_one, operand_of, sizes_of, some_of, variable_of
from jaxbackprop.checking.mistakes import Here, Mistake, Site, delta, fixed, formed_with, nothing, own, without_slope
from jaxbackprop.checking.products import roots
from jaxbackprop.programs.flat import Program, Step, shape_of, variables

BILINEAR = ("mul", "dot_general", "conv_general_dilated")
ANCESTORS = 3  # values that an operand is made from, and that may stand in its place
COMPOSED = 8  # steps back from where a softmax or a normalisation ends
LINEAR = ("add", "sub", "add_any", "neg", "copy", "convert_element_type")  # there is no slope to leave out
SLOPES = {"tanh": lambda h: 1 - h * h, "logistic": lambda h: h * (1 - h)}  # of g, by its own value h


def mistakes(program: Program) -> Iterator[Mistake]:
    """The mistakes that can be made in this program, the likelier first."""
    edges = edges_of(program)
    yield from _left_out(program, edges)
    yield from _passed_on(program, edges)
    yield from _formed_otherwise(program, edges)
    yield from _composed(program)
    yield from _looked_up(program)


# A path left out, or scaled


def _left_out(program: Program, edges: list[Edge]) -> Iterator[Mistake]:
    readers = Counter(v for step in program.steps for v in variables(step) if v in program.depends)
    for edge in edges:
        step = edge.steps[0]
        alone = sum(felt(program, operand) for operand in step.reads) == 1
        if alone and all(readers[v] == 1 for v in edge.reads):
            continue  # the same as further on
        path = f"what comes back through {operand_of(program, edge)}"
        for sites, where in some_of(edge.sites):
            yield _path(program, step, sites, path, where)
    statistics = tuple(site for edge in edges if _is_statistic(program, edge) for site in edge.sites)
    if len(statistics) > 1:
        said = (
            "the statistics (means, variances, sums) are taken as constants: what comes back through them is left out"
        )
        yield Mistake("path missing", statistics, nothing, said)
    wholes: dict[Any, list[Step]] = {}
    for step in program.steps:
        several = sum(felt(program, operand) for operand in step.reads) > 1
        if gives_one(program, step) and (several or readers[step.writes[0]] > 1):
            shape = program.shapes[step.writes[0]].shape
            wholes.setdefault((step.name, step.line or step.number, shape), []).append(step)
    for steps in wholes.values():
        sites = tuple(Site(step.number, None) for step in steps)
        yield _path(program, steps[0], sites, f"what comes back to {at(steps[0])}")


def _path(program: Program, step: Step, sites: tuple[Site, ...], path: str, where: str = "") -> Mistake:
    text = f"{path} is left out{where}"
    return Mistake("path missing", sites, nothing, text, f"{path}{where}", sizes_of(program, step))


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


def _passed_on(program: Program, edges: list[Edge]) -> Iterator[Mistake]:
    """δu, or u δu, where the derivative of a step, or of all steps from z to h, belongs."""
    for edge in edges:
        step, u = edge.steps[0], edge.reads[0]
        if step.name in LINEAR or program.shapes[u].shape != program.shapes[step.writes[0]].shape:
            continue

        def wrong(here: Here, position=edge.position):
            return delta(here.operands[position])

        text = f"the derivative of {at(step)} is left out: what comes back passes {operand_of(program, edge)} as it is"
        yield Mistake("derivative missing", edge.sites, wrong, text)
        if step.name in SLOPES:
            text = f"g' of {at(step)} is formed with z where h belongs"
            yield Mistake("value for derivative", edge.sites, _at_z, text)
    yield from _up_to_here(program)


def _at_z(here: Here):
    (z,) = here.operands
    return fixed(SLOPES[here.step.name](z)) * delta(z)


def _up_to_here(program: Program) -> Iterator[Mistake]:
    """The same of the last of some steps that make h of z, and nothing else."""
    root = roots(program)
    ends = {v: z for v, z in root.items() if v not in root.values()}
    groups: dict[Any, list[Step]] = {}
    for step in program.steps:
        if gives_one(program, step) and step.writes[0] in ends and felt(program, ends[step.writes[0]]):
            groups.setdefault((step.name, step.line or step.number), []).append(step)
    for steps in groups.values():
        sites = tuple(Site(step.number, None) for step in steps)
        place, sources = at(steps[0]), [ends[step.writes[0]] for step in steps]
        yield from without_slope(sites, sources, f"up to {place}", f"the steps up to {place}")


# A product formed with another array


def _formed_otherwise(program: Program, edges: list[Edge]) -> Iterator[Mistake]:
    for edge in edges:
        step, position = edge.steps[0], edge.position
        if step.name not in BILINEAR or len(step.reads) != 2:
            continue
        others = [one.reads[1 - position] for one in edge.steps]
        shape = shape_of(program, others[0])
        if not shape:
            continue
        back = f"what comes back through {operand_of(program, edge)} is formed with"
        other = variable_of(program, others[-1])
        for words, turn in _turns(step, 1 - position, shape):
            wrong = formed_with(position, lambda here, turn=turn, k=1 - position: turn(here.operands[k]))
            yield Mistake("weights", edge.sites, wrong, f"{back} {other} {words}")
        for words, turn in _turns(step, None, program.shapes[step.writes[0]].shape):

            def turned(here: Here, turn=turn, position=position):
                return turn(own(here.step, here.operands, position))

            yield Mistake("weights", edge.sites, turned, f"{back} dv of its result {words}")
        for words, in_place in _in_place(program, others):

            def instead(here: Here, in_place=in_place, k=1 - position):
                v = in_place[here.t]
                return jnp.zeros_like(here.operands[k]) if v is None else here.right[v]

            text = f"{back} {words}, where {other} belongs"
            yield Mistake("source", edge.sites, formed_with(position, instead), text)


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
        yield f"{variable_of(program, made[-1])}, from which it is made", list(made)


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


def _composed(program: Program) -> Iterator[Mistake]:
    """Where a value meets a statistic of itself: the derivative of all from z on left out, or the division on its way back."""
    for step in program.steps:
        if not gives_one(program, step) or step.name not in ("div", "mul", "sub"):
            continue
        if sum(felt(program, operand) for operand in step.reads) < 2:
            continue
        sites = (Site(step.number, None),)
        if step.name == "div":
            text = f"what comes back from {at(step)} is not divided by {variable_of(program, step.reads[1])}"
            yield Mistake("path missing", sites, _undivided, text)
        for z in itertools.islice(_ancestors(program, step.writes[0]), COMPOSED):
            if felt(program, z):

                def passed(here: Here, z=z):
                    return delta(here.found[z])

                text = f"the derivative from {variable_of(program, z)} to {at(step)} is left out"
                yield Mistake("derivative missing", sites, passed, text)


def _undivided(here: Here):
    return delta(here.step.bind(*here.operands)[0]) * fixed(here.operands[1])


# A table of which rows are looked up


def _looked_up(program: Program) -> Iterator[Mistake]:
    """Of a row that is looked up twice only the last counts: it was set, where it had to be added to."""
    for step in program.steps:
        if step.name == "gather" and felt(program, step.reads[0]) and gives_one(program, step):

            def wrong(here: Here):
                looked_up = here.operands[1]
                ids = looked_up.reshape(-1, looked_up.shape[-1])
                same = jnp.all(ids[:, None] == ids[None], axis=-1)
                last = ~jnp.any(jnp.triu(same, 1), axis=1).reshape(looked_up.shape[:-1])
                term, offset = own(here.step, here.operands, 0), here.step.settings["dimension_numbers"].offset_dims
                return term * jnp.expand_dims(last, [axis for axis in offset if axis < term.ndim])

            text = f"of what is looked up twice in {variable_of(program, step.reads[0])} only the last counts: set, not added?"
            yield Mistake("path missing", (Site(step.number, 0),), wrong, text)
