"""`jaxbackprop grade`, and `trace` of a derivation, on files and standard input."""

import io
from pathlib import Path

import numpy as np
import pytest
from commands import (
    jaxbackprop,
    refused,
    strict,
)

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")


def test_grade_marks_a_file_and_says_by_its_status_whether_anything_is_wrong():
    Path("right.md").write_text("\ufeffdL/dz1 = dL/dh1 * [z1 >= 0]\n", encoding="utf-8")
    Path("wrong.md").write_text("dL/dz1 = dL/dh1 * [z1 >= 0]\ndL/dh0 = dL/dz1 * w1\n")
    right, wrong = jaxbackprop("grade", "right.md"), jaxbackprop("grade", "wrong.md")
    assert (right.status, right.err) == (0, "")
    assert "1 right, none wrong" in right.out
    assert (wrong.status, wrong.err) == (1, "")
    assert "the path h0 -> yhat is missing" in wrong.out
    told = jaxbackprop("grade", "wrong.md", "--json")
    assert told.status == 1
    assert [line["status"] for line in strict(told.out)["lines"]] == ["right", "wrong"]


def test_grade_says_by_its_status_where_too_little_was_judged():
    """Four of five equations judged are enough; of these two one is none."""
    Path("half.md").write_text("dL/dz1 = dL/dh1 * [z1 >= 0]\ndL/dh1 = dL/dz2 w2 squish\n")
    found = jaxbackprop("grade", "half.md")
    assert (found.status, found.err) == (3, "")
    assert "1 not read" in found.out
    assert "score 50%" in found.out
    assert jaxbackprop("grade", "half.md", "--allow-unread").status == 0
    Path("half.md").write_text("dL/dh0 = dL/dz1 w1\ndL/dh1 = dL/dz2 w2 squish\n")
    assert jaxbackprop("grade", "half.md", "--allow-unread").status == 1


def test_grade_reads_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("dL/dw3 = dL/dz2 * h0"))
    assert jaxbackprop("grade", "-").status == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory: essay.md"),
        (b"\xff\xfe=", "essay.md is not UTF-8 text"),
        (b"prose", "has no equation"),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(content, message):
    if content is not None:
        Path("essay.md").write_bytes(content)
    refused(jaxbackprop("grade", "essay.md"), message)


# ---- trace, of a derivation's own network


def test_trace_works_a_derivation_through():
    Path("mine.md").write_text("z = w x + b\nh = tanh(z)\nL = 1/2 (h - y)^2\n")
    found = jaxbackprop("trace", "mine.md", "--x", "2", "--set", "w=0.3", "b=-1", "y=0.5")
    assert (found.status, found.err) == (0, "")
    h = np.tanh(0.3 * 2 - 1)
    for name, value in (
        ("dL/dh", h - 0.5),
        ("dL/dw", (h - 0.5) * (1 - h**2) * 2),
        ("dL/dx", (h - 0.5) * (1 - h**2) * 0.3),
    ):
        (row,) = [line for line in found.out.splitlines() if line.startswith(name)]
        assert f"= {value:.6g}" in row
    assert (
        next(line for line in found.out.splitlines() if line.startswith("dL/dw")).split()[-1]
        == f"{(h - 0.5) * (1 - h**2) * 2:.6g}"
    )


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("z = w x\nL = z^2", (), "no number for w: give each, as in w=0.5"),
        ("z = w x", ("--set", "w=1"), "the text defines no loss"),
        ("z = w x\nL = z^2", ("--set", "w=1", "u=2"), "u is not free in the equations: they need w, x"),
        ("z = w x\nL = z^2", ("--set", "w=1", "--format", "latex"), "shown as text alone"),
    ],
)
def test_what_cannot_be_worked_through_is_refused_in_one_line(text, more, message):
    Path("mine.md").write_text(text)
    refused(jaxbackprop("trace", "mine.md", *more), message)
