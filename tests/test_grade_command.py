"""`jaxbackprop grade`, on files and standard input."""

import io
from pathlib import Path

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
