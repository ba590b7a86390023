"""Where a program multiplies something by a parameter.

A parameter may be reshaped, transposed, broadcast or cast on its way: a *view* of it. A *product* has a view for one operand, and
for the other none. Other ways in (a sum, a gather, a convolution, all that is inside a `scan`) are not looked for.

What is an elementwise function of one thing, as an activation's h = g(z) is of z, has that for its *root*.

The views of programs/axes.py hold each number of a parameter once at most. These may repeat them, as a scale does that is
broadcast, and keep their steps: a mistake made on purpose puts another matrix through them.
"""

from typing import Any, NamedTuple

from jaxbackprop.programs.flat import Operand, Program, Step, variables

SHAPERS = ("reshape", "transpose", "broadcast_in_dim", "convert_element_type", "squeeze", "expand_dims", "copy")
PRODUCTS = ("dot_general", "mul")
ELEMENTWISE = (
    *(
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "max",
        "min",
        "abs",
        "sign",
        "clamp",
        "select_n",
        "pow",
        "integer_pow",
        "square",
    ),
    *("exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "cbrt", "tanh", "logistic", "erf", "erfc", "erf_inv"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "floor", "ceil"),
    *("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "is_finite", "stop_gradient", "convert_element_type"),
    *("custom_jvp_call", "copy", "round", "lgamma", "digamma"),
)


class View(NamedTuple):
    """A parameter up to its shape or dtype: which one, and the steps from there."""

    parameter: int
    steps: tuple[Step, ...]


class Product(NamedTuple):
    """A product W h.

    Attributes:
        step: the product.
        position: which of its operands is W.
        view: what W is of which parameter.
    """

    step: Step
    position: int
    view: View

    @property
    def other(self) -> Operand:
        """The operand h."""
        return self.step.reads[1 - self.position]


def views(program: Program) -> dict[Any, View]:
    """For each variable that is a parameter up to its shape or dtype, what it is.

    >>> import jax.numpy as jnp
    >>> from jaxbackprop.programs.flat import flatten
    >>> program = flatten(lambda w, x: jnp.exp(w.T) @ x, jnp.ones((2, 3)), jnp.ones(2))
    >>> {variable: (view.parameter, [step.name for step in view.steps]) for variable, view in views(program).items()}
    {0: (0, []), 2: (0, ['transpose'])}
    """
    found: dict[Any, View] = {v: View(i, ()) for i, v in enumerate(program.inputs[: program.parameters])}
    for step in program.steps:
        if step.name in SHAPERS and len(step.reads) == 1 and step.reads[0] in found:
            parameter, steps = found[step.reads[0]]
            found[step.writes[0]] = View(parameter, (*steps, step))
    return found


def viewed(view: View, leaf):
    """An array shaped like the parameter, seen as the view sees that."""
    for step in view.steps:
        (leaf,) = step.bind(leaf)
    return leaf


def products(program: Program) -> list[Product]:
    """The products of a parameter with something else, in the order in which they are computed.

    >>> import jax.numpy as jnp
    >>> from jaxbackprop.programs.flat import flatten
    >>> program = flatten(lambda p, x: (x @ p[0]) @ p[1], [jnp.ones((2, 3)), jnp.ones((3, 1))], jnp.ones((4, 2)))
    >>> [(product.view.parameter, product.position) for product in products(program)]
    [(0, 1), (1, 1)]
    """
    known, found = views(program), []
    for step in program.steps:
        if step.name in PRODUCTS:
            for position in (0, 1):
                if step.reads[position] in known and step.reads[1 - position] not in known:
                    found.append(Product(step, position, known[step.reads[position]]))
    return found


def roots(program: Program) -> dict[int, int]:
    """For each variable that is an elementwise function of one other, that other: z for h = g(z)."""
    root: dict[int, int] = {}
    for step in program.steps:
        if len(step.writes) != 1:
            continue
        (result,) = step.writes
        shape = program.shapes[result].shape
        read = [v for v in variables(step) if v in program.depends]
        same = step.name in ELEMENTWISE and all(program.shapes[v].shape == shape for v in read)
        roots = {root.get(v, v) for v in read}
        if same and len(roots) == 1 and result in program.depends:
            root[result] = roots.pop()
    return root
