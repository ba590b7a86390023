"""A written derivation in, a verdict per line out.

    text --notation--> equations --wiring--> network, true values and adjoints --here--> right or wrong, and why

The network is what the forward equations say; without any it is the exercise's. Each equation is judged by itself: the
two sides are compared as numbers, with the right adjoints upstream, at points that cover every on/off pattern of the
hidden units and z = 0. Nothing in the text is ever executed.
"""

import textwrap
from typing import Any, NamedTuple

RIGHT, WRONG, INHERITED, UNREAD = "right", "wrong", "right given the line above", "not read"
MARKS = {RIGHT: "✓", WRONG: "✗", INHERITED: "↳", UNREAD: "?"}


class Line(NamedTuple):
    """The verdict on one equation.

    Attributes:
        text: the equation as written.
        quantity: what it is about, "dL/dz1"; a later link of a chain is about the chain's first term.
        status: "right", "wrong", "right given the line above" or "not read".
        reason: in words why, with a counterexample and the right line where it is wrong; "" where there is nothing to say.
        row: the line of the text on which it stands, from 1.
        formula: how it was read, in plain notation; "" where it was not.
        correction: the right line, where it is wrong.
        slip: the number of the slip that a wrong line belongs to, from 1: wrong lines in a row about one quantity are one.
    """

    text: str
    quantity: str
    status: str
    reason: str
    row: int
    formula: str = ""
    correction: str = ""
    slip: int | None = None


class Verdict(NamedTuple):
    """The verdict on a text: `lines`, and their sum."""

    lines: tuple[Line, ...]

    def count(self, status: str) -> int:
        """How many lines have this status."""
        return sum(line.status == status for line in self.lines)

    @property
    def ok(self) -> bool:
        """Nothing is wrong, and something was read."""
        return not self.count(WRONG) and self.count(UNREAD) < len(self.lines)

    @property
    def score(self) -> float:
        """The share of the lines read that are right; a line that only inherits an error counts as right."""
        judged = len(self.lines) - self.count(UNREAD)
        return (self.count(RIGHT) + self.count(INHERITED)) / judged if judged else 0.0

    @property
    def slips(self) -> int:
        """How many slips the wrong lines come from."""
        return max((line.slip or 0 for line in self.lines), default=0)

    @property
    def summary(self) -> str:
        """One line: how many are right, wrong and not read."""
        judged, wrong, slips = len(self.lines) - self.count(UNREAD), self.count(WRONG), self.slips
        parts = [
            f"{self.count(RIGHT)} right",
            f"{wrong} wrong ({slips} slip{'s' * (slips != 1)})" if wrong else "none wrong",
        ]
        if self.count(INHERITED):
            parts.append(f"{self.count(INHERITED)} right given the line above")
        parts.append(f"{self.count(UNREAD)} not read")
        equations = f"{len(self.lines)} equation{'s' * (len(self.lines) != 1)}"
        return f"{equations}: {', '.join(parts)}; score {100 * self.score:.0f}% of the {judged} read"

    def to_dict(self) -> dict:
        """Everything, as JSON can hold it."""
        return {
            "ok": self.ok,
            "score": self.score,
            "slips": self.slips,
            "counts": {status: self.count(status) for status in MARKS},
            "summary": self.summary,
            "lines": [line._asdict() for line in self.lines],
        }

    def __str__(self) -> str:
        shown = [line.formula or short(line.text, 90) for line in self.lines]
        number = max((len(str(line.row)) for line in self.lines), default=1)
        status = max((len(line.status) for line in self.lines), default=1)
        rows = []
        for line, text in zip(self.lines, shown, strict=True):
            rows.append(f"{MARKS[line.status]} {line.row:>{number}}  {line.status:<{status}}  {text}")
            indent = " " * (number + status + 8)
            rows += textwrap.wrap(line.reason, 118, initial_indent=indent, subsequent_indent=indent)
        return "\n".join([*rows, self.summary])


def grade(text: str, network: Any = None) -> Verdict:
    """Judge a written derivation, equation by equation.

    Plain text, Unicode, LaTeX and Markdown are read; prose is passed over; what looks like an equation and cannot be
    read is listed as "not read". Forward equations define the network; where the text has none it is the exercise,
    z0 = w0 x, h0 = g(z0), z1 = w1 h0, h1 = g(z1), z2 = w2 h1 + w3 h0, yhat = z2 with g(z) = 0 for z < 0, z otherwise.
    The adjoint dL/dyhat is given, unless the text has a loss (L = ...); a text that has none but says what dL/dyhat is
    is held to half the squared error. Where g has a kink the stated branch decides its slope at 0; another choice is
    accepted with a remark.

    An equation with ^T, @ or an outer product is judged with matrices of different sizes, for one example; and so
    are the others of such a text, local derivatives (dz2/dh0) apart. Gradients have the shape of what they belong to.

    Args:
        text: at most 100,000 characters and 400 equations.
        network: a `jaxbackprop.Network` to judge by, instead of the text's forward equations. Its weights are named as
            in the text's forward equations, or w0, w1, ... in the network's order, or w_yhat_h0 by their edge.

    Returns:
        A `Verdict`: `lines`, `ok`, `score`; `str(verdict)` for people, `to_dict()` for programs.

    Raises:
        TypeError: the text is not a string, or the network not a network.
        ValueError: the text is too long, or has no equation.
        ImportError: the extra `grade` is not installed.

    >>> verdict = grade("dL/dz1 = dL/dh1 * [z1 >= 0]; dL/dh0 = dL/dz1 * w1")
    >>> [(line.quantity, line.status) for line in verdict.lines]
    [('dL/dz1', 'right'), ('dL/dh0', 'wrong')]
    >>> verdict.lines[1].reason.split(";")[0]
    'the path h0 -> yhat is missing'
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}: give the derivation as a string")
    try:
        from jaxbackprop.grading.judge import judge  # imported where it is used: the parser is an extra
    except ModuleNotFoundError as error:
        if error.name != "lark":
            raise
        raise ImportError("grade needs the parser lark: pip install 'jaxbackprop[grade]'") from None
    return Verdict(tuple(judge(text, network)))


def short(text: str, width: int) -> str:
    """The text on one line, cut to the width."""
    return text if len(text) <= width else text[: width - 1] + "…"
