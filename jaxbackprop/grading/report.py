"""What `grade` finds: a verdict for each equation of a text, and their sum."""

import textwrap
from typing import NamedTuple

from jaxbackprop.mathematics import Maths
from jaxbackprop.spelling import terminal_width
from jaxbackprop.tables import Table, Tabled

RIGHT, WRONG, INHERITED, UNJUDGED, UNREAD = "right", "wrong", "right given the line above", "not judged", "not read"
MARKS = {RIGHT: "✓", WRONG: "✗", INHERITED: "↳", UNJUDGED: "·", UNREAD: "?"}
ENOUGH = 0.8  # of the equations must be judged, or the verdict is not one on the text


class Line(NamedTuple):
    """The verdict on one equation.

    Attributes:
        text: the equation as written.
        quantity: what it is about, "dL/dz1"; a later link of a chain is about the chain's first term.
        status: "right", "wrong", "right given the line above", "not judged" or "not read".
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
    """The verdict on a text: `lines`, their sum, and `basis`: what the text was judged as."""

    lines: tuple[Line, ...]
    basis: str = ""

    def count(self, status: str) -> int:
        """How many lines have this status."""
        return sum(line.status == status for line in self.lines)

    @property
    def judged(self) -> int:
        """How many lines were read and judged."""
        return len(self.lines) - self.count(UNREAD) - self.count(UNJUDGED)

    @property
    def ok(self) -> bool:
        """Nothing is wrong, and something was judged."""
        return not self.count(WRONG) and self.judged > 0

    @property
    def enough(self) -> bool:
        """At least four fifths of the lines were judged."""
        return self.judged >= ENOUGH * len(self.lines)

    @property
    def score(self) -> float:
        """The share of all lines that are right; a line that only inherits an error counts as right."""
        return (self.count(RIGHT) + self.count(INHERITED)) / len(self.lines) if self.lines else 0.0

    @property
    def slips(self) -> int:
        """How many slips the wrong lines come from."""
        return max((line.slip or 0 for line in self.lines), default=0)

    @property
    def summary(self) -> str:
        """One line: how many are right, wrong and not read."""
        wrong, slips = self.count(WRONG), self.slips
        parts = [
            f"{self.count(RIGHT)} right",
            f"{wrong} wrong ({slips} slip{'s' * (slips != 1)})" if wrong else "none wrong",
        ]
        parts += [f"{self.count(s)} {s}" for s in (INHERITED, UNJUDGED) if self.count(s)]
        parts.append(f"{self.count(UNREAD)} not read")
        equations = f"{len(self.lines)} equation{'s' * (len(self.lines) != 1)}"
        return f"{equations}: {', '.join(parts)}; score {100 * self.score:.0f}%"

    def to_dict(self) -> dict:
        """Everything, as JSON can hold it."""
        return {
            "ok": self.ok,
            "score": self.score,
            "slips": self.slips,
            "basis": self.basis,
            "counts": {status: self.count(status) for status in MARKS},
            "summary": self.summary,
            "lines": [line._asdict() for line in self.lines],
        }

    def table(self) -> tuple[Table, list[str]]:
        """A line for each equation; below it what the text was judged as, and the sum."""
        head = ("", "line", "verdict", "equation", "reason")
        lines = [
            (MARKS[e.status], str(e.row), e.status, Maths(e.formula) if e.formula else e.text, e.reason)
            for e in self.lines
        ]
        return [head, *lines], [part for part in (self.basis, self.summary) if part]

    # a named tuple has no other base: a notebook asks for these by name
    _repr_html_, _repr_markdown_, _repr_latex_ = Tabled._repr_html_, Tabled._repr_markdown_, Tabled._repr_latex_

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        width = max(60, terminal_width() - 2)
        shown = [line.formula or short(line.text, 90) for line in self.lines]
        number = max((len(str(line.row)) for line in self.lines), default=1)
        status = max((len(line.status) for line in self.lines), default=1)
        rows = textwrap.wrap(self.basis, width, subsequent_indent="  ")
        for line, text in zip(self.lines, shown, strict=True):
            rows.append(f"{MARKS[line.status]} {line.row:>{number}}  {line.status:<{status}}  {text}")
            indent = " " * (number + status + 8)
            rows += textwrap.wrap(line.reason, width, initial_indent=indent, subsequent_indent=indent)
        return "\n".join([*rows, self.summary])


def short(text: str, width: int) -> str:
    """The text on one line, cut to the width."""
    return text if len(text) <= width else text[: width - 1] + "…"
