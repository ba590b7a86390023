"""What a check reads off a program: where it decides, and what it takes as constant.

- A *decision* is a primitive whose derivative jumps: a comparison, max, abs, floor, … Its *side* is the sign of what it
  compares: −1, 0 (exactly at the kink) or +1. Where no side changes between two points, no kink lies between them. At 0 it is
  *tied*, where both signs can be asked for.
- What `stop_gradient` is given is *held*: the derivative takes it as constant, so that differences must too.

A short loop is read step after step (`programs.flat`). What long ones, `while`, `cond`, kernels and the like decide is not seen,
and `opaque` says so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.programs.flat import Constant, Program, Step, equations, inside, needed, run, variables

KERNELS = ("pallas_call", "pure_callback", "io_callback", "ffi_call", "custom_call")  # JAX cannot look inside
OPAQUE = (
    *("scan", "while", "cond", "shard_map", *KERNELS),
    # and what decides, but by more than a sign
    *("reduce_window", "select_and_scatter", "select_and_gather_add", "rem"),
    *("top_k", "approx_top_k", "scatter_max", "scatter_min"),
)
BRANCHING = ("scan", "cond")  # of these it is known what they decide: what is in them does
SMALL = 1e-290  # beside 0, and no denormal number

# Which steps


def decisions(program: Program) -> tuple[Step, ...]:
    """The steps whose derivative jumps where their side changes.

    >>> from jaxbackprop.programs.flat import flatten
    >>> program = flatten(lambda w, x: jnp.sum(jax.nn.relu(w * x)), jnp.ones(3), jnp.ones(3))
    >>> [step.name for step in decisions(program)]
    ['max']
    """
    felt = needed([step for step in program.steps if step.name != "stop_gradient"], program.outputs)
    matter = (step for step in program.steps if step.name in SIDES and _matters(program, step))
    return tuple(step for step in matter if _decides(program, step, felt))


def ties(program: Program) -> tuple[Step, ...]:
    """The decisions that compare two numbers, or one with 0."""
    return tuple(step for step in decisions(program) if step.name in TWO_SIDED)


def stopped(program: Program) -> tuple[Step, ...]:
    """The steps that the derivative takes as constant though their value depends on a parameter.

    Not those that only help `custom_linear_solve` to solve: it differentiates A x = b whatever its solver is given.
    """
    told = needed([_without_solver(step) for step in program.steps], program.outputs)
    held = (step for step in program.steps if step.name == "stop_gradient" and _matters(program, step))
    return tuple(step for step in held if not told.isdisjoint(step.writes))


def wants_symmetry(program: Program) -> tuple[str, ...]:
    """Names of the steps whose derivative is that of symmetric matrices: a factor, or what solves symmetric systems alone."""
    return tuple(sorted({step.name for step in program.steps if _wants_symmetry(step) and _matters(program, step)}))


def _wants_symmetry(step: Step) -> bool:
    if step.name == "custom_linear_solve":
        return step.settings["jaxprs"].vecmat is step.settings["jaxprs"].matvec
    return step.name in ("cholesky", "eigh")


def _without_solver(step: Step) -> Step:
    """The step with what its derivative rests upon alone: of a linear solve the matrix A and b."""
    if step.name != "custom_linear_solve":
        return step
    lengths = step.settings["const_lengths"]
    return step._replace(reads=(*step.reads[: lengths.matvec], *step.reads[sum(lengths) :]))


def opaque(program: Program) -> tuple[str, ...]:
    """Names of the steps that cannot be looked into, and may decide."""
    return tuple(sorted({step.name for step in program.steps if _is_opaque(step) and _matters(program, step)}))


def _is_opaque(step: Step) -> bool:
    if step.name not in BRANCHING:
        return step.name in OPAQUE
    known = {equation.primitive.name for body in inside(step.settings) for equation in equations(body.jaxpr)}
    return not known.isdisjoint((*SIDES, *set(OPAQUE).difference(BRANCHING)))


def counted(program: Program) -> tuple[Step, ...]:
    """The two-sided decisions: those that have two sides to be seen on, as a ReLU has.

    An |x| does not where x is a square or a sum of exponentials, whatever the parameters are.
    """
    known = _not_negative(program)

    def settled(step: Step) -> bool:
        compared = step.reads[:2] if step.name != "clamp" else step.reads[1:2]
        others = [o for o in compared if isinstance(o, Constant)]
        below = all(np.asarray(o.value).dtype != bool and bool(np.all(np.asarray(o.value) <= 0)) for o in others)
        return step.name != "clamp" and below and len(compared) - len(others) == 1 and not known.isdisjoint(compared)

    return tuple(step for step in decisions(program) if step.name in TWO_SIDED and not settled(step))


def _not_negative(program: Program) -> set[Any]:
    """Variables that are at least 0 at any parameters, as the steps that make them say."""
    found: set[Any] = set()

    def at_least_0(operand) -> bool:
        if isinstance(operand, Constant):
            return not np.iscomplexobj(operand.value) and bool(np.all(np.asarray(operand.value, np.float64) >= 0))
        return operand in found

    for step in program.steps:
        even = step.name == "integer_pow" and step.settings["y"] % 2 == 0
        squared = step.name == "mul" and step.reads[0] == step.reads[1]
        kept = step.name in KEEPING and all(map(at_least_0, step.reads))
        if step.name in POSITIVE or even or squared or kept:
            found.update(step.writes)
    return found


def _matters(program: Program, step: Step) -> bool:
    return not (program.depends.isdisjoint(variables(step)) or program.live.isdisjoint(step.writes))


def _decides(program: Program, step: Step, felt: frozenset[int]) -> bool:
    """Whether a derivative changes with the step's side; `felt` are the variables that it passes through."""
    if step.name in EXTREMES:  # of log Σ eᶻ = m + log Σ e^(z − m) the derivative does not feel m = max z
        return not felt.isdisjoint(step.writes)
    compared = [program.shapes[v].dtype for v in variables(step) if v in program.depends]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in compared):
        return False  # integers and truths were decided before
    if step.name not in COMPARISONS:
        return True
    # x ≠ x asks for NaN, and max(x, −inf) for nothing
    infinite = any(isinstance(o, Constant) and np.isinf(np.asarray(o.value, np.float64)).any() for o in step.reads)
    return step.reads[0] != step.reads[1] and not infinite


# Runs


def value_and_sides(program: Program, leaves: Sequence[Any], hold: Any = False, held: Sequence[Any] = ()):
    """The program's value, the sides of each of its decisions as integer arrays, and what stop_gradient was given.

    With `hold` true what stop_gradient gives is not computed but taken from `held`: the derivative takes it as constant, so
    that differences must too.
    """
    deciding, holding = ({step.number for step in steps} for steps in (decisions(program), stopped(program)))
    sides, given = [], []

    def rule(step, *operands):
        results = step.bind(*operands)
        if step.number in deciding:
            sides.append(SIDES[step.name](operands, step.settings | {"bind": lambda x: step.bind(x)[0]}))
        if step.number in holding:
            given.append(results[0])
            return [jnp.where(hold, held[len(given) - 1], results[0])] if len(held) else results
        return results

    value, *_ = run(program, leaves, rule)
    return value, sides, given


def with_ties_broken(program: Program) -> Callable:
    """The program's value as a function of (signs, parameter leaves, data leaves): no decision sits on its kink.

    What a decision compares is moved by a rounding error where it is exactly equal, up or down as its sign says. So
    `jax.grad` gives the derivative of one choice at each kink; any other is a mixture of these.
    """
    tied = {step.number: i for i, step in enumerate(ties(program))}

    def value(signs, params, data):
        def rule(step, *operands):
            if step.number not in tied:
                return step.bind(*operands)
            sign = signs[tied[step.number]]
            if step.name == "clamp":
                low, x, high = operands
                moved = [low, _moved(x, (x == low) | (x == high), sign), high]
            elif len(operands) == 1:
                moved = [_moved(operands[0], operands[0] == 0, sign)]
            else:
                moved = [_moved(operands[0], operands[0] == operands[1], sign), operands[1]]
            return step.bind(*moved)

        return run(program, [*params, *data], rule)[0]

    return value


def _moved(x, tied, sign):
    step = jnp.where(x == 0, SMALL, jnp.abs(x) * jnp.finfo(x.dtype).eps) * sign
    return x + jax.lax.stop_gradient(jnp.where(tied, step, 0)).astype(x.dtype)


# Sides


def _sign(difference):
    return jnp.sign(difference).astype(jnp.int32)


def _compared(operands, _settings):
    return _sign(operands[0] - operands[1])


def _clamped(operands, _settings):
    low, x, high = operands
    return jnp.stack(jnp.broadcast_arrays(_sign(x - low), _sign(x - high)), axis=-1)  # examples stay first


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


def _selected(operands, settings):
    """Which entries are passed on: the derivative holds zeros and ones, and Jᵀ (1, 2, 3, …) tells them apart."""
    result, back = jax.vjp(settings["bind"], operands[0])
    return back(jnp.arange(1, result.size + 1, dtype=result.dtype).reshape(result.shape))[0].astype(jnp.int32)


SELECTING = ("reduce_window_max", "reduce_window_min", "cummax", "cummin")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne", "max", "min")
SIDES: dict[str, Callable] = {
    **dict.fromkeys(COMPARISONS, _compared),
    **dict.fromkeys(("abs", "sign"), lambda operands, _: _sign(operands[0])),
    **dict.fromkeys(("floor", "ceil", "round"), _rounded),
    **dict.fromkeys(("reduce_max", "argmax"), _largest),
    **dict.fromkeys(("reduce_min", "argmin"), _smallest),
    **dict.fromkeys(SELECTING, _selected),
    "clamp": _clamped,
    "sort": _ordered,
}
EXTREMES = ("reduce_max", "reduce_min", "argmax", "argmin", "sort", *SELECTING)
# of these the side is a sign, and both signs can be asked for
TWO_SIDED = (*COMPARISONS, "abs", "sign", "clamp")
POSITIVE = ("exp", "exp2", "logistic", "abs", "sqrt", "rsqrt", "square", "cosh", "erfc")
# at least 0 wherever all that they read is
KEEPING = (
    *(
        "add",
        "mul",
        "div",
        "max",
        "min",
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "concatenate",
        "stop_gradient",
        "copy",
    ),
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "expand_dims", "cumsum", "convert_element_type"),
)
