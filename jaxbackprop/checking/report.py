"""What a check has found: a `Row` for each parameter, and the `Report`."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxbackprop.checking.diagnosis import Diagnosis
from jaxbackprop.spelling import ENDLESS, aligned, folded, terminal_width
from jaxbackprop.tables import Table, Tabled

COLUMNS = (
    "differences are parts of the gradient's largest entry: from jax.grad in the given dtype and in float64, and from finite "
    "differences, of which so many met no kink, one near, one there"
)


class Kinks(NamedTuple):
    """How many of the entries and directions that differences looked at were smooth, near a kink, at a kink."""

    smooth: int = 0
    near: int = 0
    at: int = 0


class Row(NamedTuple):
    """One parameter's verdict; errors are relative to the largest entry of its gradient, None where not compared.

    Attributes:
        parameter: its path in the pytree.
        ok: whether its gradient is right.
        dtype: the parameter's.
        error: the largest over entries, in that dtype, at the given parameters, beside `jax.grad` in float64.
        error_float64: the largest over entries and points, in float64.
        error_differences: by how much finite differences miss the gradient, or their own error where that is more.
        where: the index of the largest error, () for a scalar; None where all is right.
        given: that entry.
        right: what it should be.
        kinks: how many entries and directions were smooth, near a kink, at a kink.
        examples: which examples of the batch, taken by themselves, have a wrong gradient; None where that was not asked.
        diagnosis: what the error looks like; None where all is right.
    """

    parameter: str
    ok: bool
    dtype: str
    error: float
    error_float64: float | None = None
    error_differences: float | None = None
    where: tuple[int, ...] | None = None
    given: float | None = None
    right: float | None = None
    kinks: Kinks = Kinks()
    examples: tuple[int, ...] | None = None
    diagnosis: Diagnosis | None = None

    @property
    def problem(self) -> str:
        """The diagnosis, the place of the largest error and the examples, in words; "" where all is right."""
        return "; ".join(([self.diagnosis.text] if self.diagnosis else []) + self.details)

    @property
    def details(self) -> list[str]:
        """The place of the largest error, and the examples."""
        parts = []
        if self.where is not None:
            at = f"at [{', '.join(map(str, self.where))}] " if self.where else ""
            parts.append(f"{at}{self.given:.6g} where {self.right:.6g} is right")
        if self.examples is not None:
            parts.append(_examples(self.examples))
        return parts


@dataclass(frozen=True, repr=False)
class Report(Tabled):
    """The verdict over all parameters.

    Attributes:
        rows: a `Row` for each parameter.
        points: how many parameter values it was checked at.
        units: how many two-sided decisions (ReLU units, say) the value has, examples of a batch counted together.
        both_sides: how many of them were seen on both sides.
        notes: what else is to be said, a line each.
        opaque: names of what may decide and cannot be looked into.
    """

    rows: tuple[Row, ...]
    points: int = 0
    units: int = 0
    both_sides: int = 0
    notes: tuple[str, ...] = field(default=())
    opaque: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found; `outcome` says whether all was looked at."""
        return all(row.ok for row in self.rows)

    @property
    def outcome(self) -> str:
        """One of "right", "right where looked at" (some decisions were not seen on both sides, or not at all) and "wrong"."""
        if not self.ok:
            return "wrong"
        return "right where looked at" if self.unseen else "right"

    @property
    def unseen(self) -> str:
        """What was not looked at, in words; "" where all was."""
        never = f"{self.units - self.both_sides} of {self.units} decisions never seen on both sides"
        inside = f"what {', '.join(self.opaque)} decides not seen"
        return "; ".join([*([never] if self.both_sides < self.units else []), *([inside] if self.opaque else [])])

    @property
    def line(self) -> str:
        """The verdict in one line."""
        wrong = [row.parameter for row in self.rows if not row.ok]
        if wrong:
            return f"WRONG for {len(wrong)} of {len(self.rows)} parameters: {', '.join(wrong)}"
        compared = [
            ("jax.grad", max(row.error for row in self.rows), self.rows[0].dtype),
            ("jax.grad", _largest(row.error_float64 for row in self.rows), "float64"),
            ("finite differences", _largest(row.error_differences for row in self.rows), "float64"),
        ]
        errors = ", ".join(
            f"{_figure(error)} ({what}, {dtype})" for what, error, dtype in compared if error is not None
        )
        parameters = f"{len(self.rows)} parameter{'s' if len(self.rows) > 1 else ''}"
        right = f"right where it was looked at: {self.unseen}" if self.unseen else "right"
        return f"{right}, {parameters}; largest relative difference {errors}"

    @property
    def coverage(self) -> str:
        """At how many points, and how many decisions were seen on both sides."""
        units = f"{self.both_sides} of {self.units} decisions (max, abs, comparisons) seen on both sides"
        outside = f" outside of {', '.join(self.opaque)}" if self.opaque else ""
        return f"{self.points} points; " + (units if self.units else f"no two-sided decisions{outside}")

    def table(self) -> tuple[Table, list[str]]:
        """A line for each parameter; below it the verdict, what was covered, and notes."""
        head = ("parameter", "verdict", "jax.grad", "in float64", "differences", "smooth, near, at kink")
        table = [head] + [
            (
                row.parameter,
                "right" if row.ok else "WRONG",
                _figure(row.error),
                _figure(row.error_float64),
                _figure(row.error_differences),
                "/".join(map(str, row.kinks)),
            )
            for row in self.rows
        ]
        covered = [COLUMNS, self.coverage] if self.points else [COLUMNS]
        return table, [f"gradient check: {self.line}", *self._reasons(), *covered, *(f"note: {n}" for n in self.notes)]

    def __str__(self):
        """The verdict, an aligned table, what was covered, and notes."""
        table, (verdict, *below) = self.table()
        return "\n".join([*folded([verdict]), *aligned(table, width=terminal_width(ENDLESS)), *folded(below)])

    def _reasons(self) -> list[str]:
        """Each diagnosis with the parameters that share it, and below it the details of each."""
        shared: dict[str, list[Row]] = {}
        for row in self.rows:
            if not row.ok:
                shared.setdefault(row.diagnosis.text if row.diagnosis else "", []).append(row)
        lines = []
        for text, rows in shared.items():
            lines.append(f"{', '.join(row.parameter for row in rows)}: {text}")
            lines += [f"    {row.parameter} {'; '.join(row.details)}" for row in rows if row.details]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        rows = [
            row._asdict()
            | {"kinks": row.kinks._asdict(), "diagnosis": row.diagnosis._asdict() if row.diagnosis else None}
            for row in self.rows
        ]
        more = {name: getattr(self, name) for name in ("points", "units", "both_sides")}
        told = {"ok": self.ok, "outcome": self.outcome, "unseen": self.unseen}
        return {**told, "rows": rows, **more, "notes": list(self.notes)}

    def raise_if_wrong(self, strict: bool = False) -> None:
        """Raise an `AssertionError` that holds the table unless every row is right; if `strict`, unless all was looked at too."""
        if not self.ok or (strict and self.outcome != "right"):
            raise AssertionError(str(self))


def _examples(which: tuple[int, ...]) -> str:
    if not which:
        return "each example by itself is right"
    shown = ", ".join(map(str, which[:6])) + (", …" if len(which) > 6 else "")
    return f"wrong for example {shown} by itself" if len(which) == 1 else f"wrong for examples {shown} by themselves"


def _largest(errors) -> float | None:
    return max((error for error in errors if error is not None), default=None)


def _figure(error) -> str:
    return "-" if error is None else f"{error:.1e}" if error else "0"
