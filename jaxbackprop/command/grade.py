"""`jaxbackprop grade`: a written derivation, marked."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import jaxbackprop as jbp
from jaxbackprop.command.options import JSON, Command, flag, option


def deed(arguments: Namespace) -> int:
    """Mark a written derivation; returns the exit status: 1 if anything is wrong, 3 if too little was judged."""
    verdict = jbp.grade(derivation(arguments.file))
    print(json.dumps(verdict.to_dict(), ensure_ascii=False) if arguments.json else verdict)
    if verdict.count(jbp.grading.report.WRONG):
        return 1
    return 0 if verdict.enough or (arguments.allow_unread and verdict.ok) else 3


def derivation(file: str) -> str:
    """The text of a file, or of standard input."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text: save the derivation as plain text, Markdown or LaTeX") from None


COMMAND = Command(
    "grade",
    "mark a written derivation line by line",
    "Mark each equation of a derivation, in plain text, Unicode, LaTeX or Markdown: right, wrong and why, "
    "not judged or not read. The network is what its forward equations say, or the exercise's; the first line says which. "
    "Exit status 0: nothing is wrong; 1: something is; 3: nothing wrong was found, and more than a fifth of the equations "
    "was not judged or not read.",
    """\
  jaxbackprop grade derivation.md
  echo 'dL/dh0 = dL/dz1 * w1' | jaxbackprop grade -
""",
    deed,
    (
        option("file FILE", "the derivation; - reads standard input"),
        flag("--allow-unread", "exit status 0 however little was judged, if it is right"),
        JSON,
    ),
)
