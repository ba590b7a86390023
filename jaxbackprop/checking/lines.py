"""Lines of a value's program, where a backward pass that is written by hand has its own: the operands that count, in words.

In a loop, be it written out, or in a function that is called again, a line is run again and again: its runs are taken together.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxbackprop.checking.mistakes import Site
from jaxbackprop.programs.flat import Program, Step, inside, shape_of, variables

SINGLES = 4  # runs of a line that are looked at one by one, at most
SHAPING = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy", "expand_dims")


class Edge(NamedTuple):
    """An operand that depends on a parameter, of one line's steps, one for each run of the line."""

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


def edges_of(program: Program) -> list[Edge]:
    """The operands through which something comes back, those of one line and of equal shapes together."""
    found: dict[Any, list[Step]] = {}
    for step in program.steps:
        for position, operand in enumerate(step.reads) if gives_one(program, step) else ():
            if felt(program, operand):
                shapes = tuple(shape_of(program, v) for v in (*step.reads, step.writes[0]))
                found.setdefault((step.name, step.line or step.number, position, shapes), []).append(step)
    return [Edge(tuple(steps), position) for (_, _, position, _), steps in found.items()]


def felt(program: Program, operand: Any) -> bool:
    """Whether a derivative passes through an operand: it depends on a parameter, and is no truth or integer."""
    depends = isinstance(operand, int) and operand in program.depends
    return depends and jnp.issubdtype(program.shapes[operand].dtype, jnp.floating)


def gives_one(program: Program, step: Step) -> bool:
    """Whether a step gives one array of real numbers that counts; a comparison gives truths, which have no derivative.

    A loop or a solver is no line of anybody's: its operands are not held fixed one by one.
    """
    alone = len(step.writes) == 1 and not inside(step.settings)
    return alone and step.writes[0] in program.live and felt(program, step.writes[0])


def some_of(sites: tuple[Site, ...]) -> Iterator[tuple[tuple[Site, ...], str]]:
    """All the runs of a line, then all but an end, then each; in words."""
    count = len(sites)
    yield sites, ""
    if count > 2:
        yield sites[:-1], " in each run of that line but the last"
        yield sites[1:], " in each run of that line but the first"
    if 1 < count <= SINGLES:
        yield from (((site,), f" in run {k} of the {count} runs of that line") for k, site in enumerate(sites, 1))


# Words


def at(step: Step) -> str:
    """A step in words, with the user's line."""
    return f"{step.name} at {Path(step.place[0]).name}:{step.place[1]}" if step.place else step.name


def operand_of(program: Program, edge: Edge) -> str:
    """An operand in words."""
    return f"{variable_of(program, edge.reads[-1])} into {at(edge.steps[0])}"


def variable_of(program: Program, variable) -> str:
    """What a variable is: a parameter, data, or the step that says most of how it was made."""
    if not isinstance(variable, int):
        return "a constant"
    if variable in program.inputs:
        i = program.inputs.index(variable)
        return f"{{{i}}}" if i < program.parameters else "the data"
    step = next(step for step in program.steps if variable in step.writes)
    while step.name in SHAPING and isinstance(step.reads[0], int):
        if step.reads[0] in program.inputs:
            return variable_of(program, step.reads[0])
        before = step.reads[0]
        step = next(step for step in program.steps if before in step.writes)
    return at(step)


def sizes_of(program: Program, step: Step) -> tuple[int, ...]:
    """The lengths of axes at a step, and numbers of entries: what a factor may come from."""
    shapes = [program.shapes[v].shape for v in (*variables(step), *step.writes)]
    sizes = {n for shape in shapes for n in (*shape, math.prod(shape)) if n > 1}
    return tuple(sorted(sizes))
