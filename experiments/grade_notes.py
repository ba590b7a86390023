"""Grade the notes that the project starts from: `python experiments/grade_notes.py` writes results/graded_notes.md."""

from pathlib import Path

from jaxbackprop.grading.grade import grade

HERE = Path(__file__).parent
NOTES = HERE.parent / "tests" / "data" / "exercise_notes.md"
RESULT = HERE / "results" / "graded_notes.md"


def main():
    verdict = grade(NOTES.read_text())
    RESULT.write_text(f"# The notes, graded\n\n`python experiments/grade_notes.py`\n\n```text\n{verdict}\n```\n")
    print(verdict)


if __name__ == "__main__":
    main()
