"""How well does `grade` judge? The derivations of tests/derivations, and mistakes made by machine in every right line.

    python experiments/grade_benchmark.py [--quick] [--every N] [--out FOLDER] [FILE ...]

A FILE has a sign in front of each line: + right, - wrong, ? to be listed without a verdict, a blank for prose. For every
right line that claims something (a definition claims nothing) five mistakes are made, one at a time, in its formula: a
sign, a factor, a transpose where one is written, a term or factor dropped, a wrong symbol (not another name of the same
thing, nor inside a mask, where z and h say the same). Written to results/grade.json, with the N of --every, which takes every
N-th mistake; --quick takes every tenth of one derivation in forty, and writes nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measure

from jaxbackprop.grading.claims import claims_of
from jaxbackprop.grading.expression import Expr, name, names, negated, nodes, number, plus, show, spots
from jaxbackprop.grading.grade import grade
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.reading import read
from jaxbackprop.grading.report import INHERITED, RIGHT, UNJUDGED, UNREAD, WRONG

BANK = measure.HERE.parent / "tests" / "derivations"
KINDS = ("sign", "factor", "transpose", "dropped", "symbol")


class Derivation(NamedTuple):
    """A text, and the truth of each of its lines: +, -, ? or a blank."""

    text: str
    truth: str


def derivations(file: Path) -> list[Derivation]:
    """The derivations of a file."""
    found = []
    for block in re.split(r"\n[ \t]*\n", file.read_text()):
        lines = block.split("\n")
        signed = [line for line in lines if line[:1] and line[0] in "+-? "]
        if any(line[0] in "+-?" for line in signed):
            text, truth = "\n".join(line[1:] for line in signed), "".join(line[0] for line in signed)
            found.append(Derivation(text, truth))
    return found


# --- the lines as they are -------------------------------------------------------------------------------------------


def outcome(derivation: Derivation) -> Counter:
    """What becomes of the lines of each truth."""
    lines = grade(derivation.text).lines
    counts: Counter = Counter()
    for row, truth in enumerate(derivation.truth, 1):
        found = {line.status for line in lines if line.row == row}
        if truth == " ":
            continue
        if not found:
            counts[truth, "lost"] += 1
        elif WRONG in found:
            counts[truth, "wrong"] += 1
        elif found <= {RIGHT, INHERITED}:
            counts[truth, "right"] += 1
        else:
            counts[truth, "no verdict"] += 1
    return counts


# --- mistakes made by machine ----------------------------------------------------------------------------------------


def mistakes(right: Expr, others: list[Expr], vectors: bool) -> Iterator[tuple[str, Expr]]:
    """Five mistakes in one formula, or as many as it has room for."""
    terms = [(node, put) for node, put in spots(right) if node.op == "+"]
    if terms:
        node, put = terms[0]
        yield "sign", put(Expr("+", (*node.args[:-1], negated(node.args[-1]))))
    else:
        yield "sign", negated(right)
    yield "factor", Expr("product", (number(2), right))
    for node, put in spots(right) if vectors else ():
        if node.op == "transpose":
            yield "transpose", put(node.args[0])
            break
        if node.op == "matmul":
            yield "transpose", put(Expr("matmul", node.args[::-1]))
            break
    for node, put in spots(right):
        if node.op in ("+", "product", "hadamard") and len(node.args) > 1:
            rest = node.args[:-1]
            yield (
                "dropped",
                put(rest[0] if len(rest) == 1 else plus(list(rest)) if node.op == "+" else Expr(node.op, rest)),
            )
            break
    for node, put in spots(right):
        if node.op == "compare" or (node.op == "cases" and not _derivatives(node)):
            continue  # [h > 0] is [z > 0]
        other = next((o for o in others if node.op == "name" and o.args[1] == node.args[1] and o != node), None)
        if other is not None:
            yield "symbol", put(other)
            break


def planted(derivation: Derivation) -> Iterator[tuple[str, int, str]]:
    """(kind, line, the text with that mistake in that line) for each right line that claims something."""
    claims = claims_of(chains(derivation.text))
    reading = read(claims)
    rows = derivation.text.split("\n")
    alias = {v for v, (_, e) in reading.definitions.items() if e.op == "name"}
    alias |= {e.args[0] for _, e in reading.definitions.values() if e.op == "name"}
    symbols = [name(v, k) for v, (k, _) in reading.definitions.items() if v not in (*alias, reading.loss)]
    symbols += [
        n
        for n in dict.fromkeys(n for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name")
        if n.args[0] in reading.free
    ]
    vectors = any(mark in derivation.text for mark in ("^T", ".T", "@", "||", "\\|", "softmax", "tr("))
    for claim in reading.claims:
        alone = sum(c.row == claim.row for c in reading.claims) == 1
        if not (alone and claim.read and derivation.truth[claim.row - 1] == "+" and "=" in rows[claim.row - 1]):
            continue
        defines = claim.left.op == "name" and not claim.left.args[0].startswith("δ")  # type: ignore[union-attr]
        if defines or claim.left.op == "call" or (not names(claim.right) and not _derivatives(claim.right)):  # type: ignore[union-attr, arg-type]
            continue
        for kind, wrong in mistakes(claim.right, symbols, vectors):  # type: ignore[arg-type]
            shown = f"{show(claim.left, reading.loss or 'L')} = {show(wrong, reading.loss or 'L')}"  # type: ignore[arg-type]
            yield kind, claim.row, "\n".join([*rows[: claim.row - 1], shown, *rows[claim.row :]])


def _derivatives(expr: Expr) -> bool:
    return any(n.op == "derivative" for n in nodes(expr))


def caught(text: str, row: int) -> str:
    """What becomes of a mistake: caught with the right line, caught without one, no verdict, or called right."""
    found = [line for line in grade(text).lines if line.row == row]
    if any(line.status == WRONG for line in found):
        return "caught" if any(line.correction for line in found) else "caught, no right line"
    if any(line.status in (UNREAD, UNJUDGED) for line in found):
        return "no verdict"
    return "called right" if any(line.status == RIGHT for line in found) else "inherits"


def main():
    parser = measure.Parser((__doc__ or "").split("\n")[0], "some derivations, every tenth mistake")
    parser.add_argument("files", nargs="*", type=Path, default=sorted(BANK.glob("*.txt")))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th mistake")
    given = parser.given()
    every = 10 if given.quick else given.every
    every_one = [derivation for file in given.files for derivation in derivations(file)][:: 40 if given.quick else 1]
    lines = sum((outcome(derivation) for derivation in every_one), start=Counter())
    made = [mistake for derivation in every_one for mistake in planted(derivation)][every - 1 :: every]
    results: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for kind, row, text in measure.followed(made, lambda mistake: mistake[0]):
        results[kind][caught(text, row)] += 1
    found = {
        "derivations": len(every_one),
        "lines": {
            truth: {what: lines[t, what] for what in ("right", "wrong", "no verdict", "lost")}
            for t, truth in (("+", "right"), ("-", "wrong"), ("?", "open"))
        },
        "every": every,
        "mistakes": {kind: dict(counts) for kind, counts in results.items()},
    }
    if given.folder:
        measure.replace(given.folder / "grade.json", json.dumps(found, indent=1) + "\n")
    kinds = dict.fromkeys(what for counts in results.values() for what in counts)
    measure.show("lines", [{"truth": truth, **counts} for truth, counts in found["lines"].items()])
    measure.show("mistakes", [{"mistake": kind, **{w: n[w] for w in kinds}} for kind, n in results.items()])


if __name__ == "__main__":
    main()
