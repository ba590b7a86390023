"""The pieces of a text that are read as one: a row of a display, a cell of a table, an inline formula, a line."""

import re
from typing import NamedTuple

from jaxbackprop.grading.expression import Expr
from jaxbackprop.grading.grammar import MAX_PIECE
from jaxbackprop.grading.guards import IF
from jaxbackprop.grading.notation import plain
from jaxbackprop.grading.sides import foreign, side_of
from jaxbackprop.grading.vocabulary import Vocabulary, vocabulary


class Piece(NamedTuple):
    """A stretch of text that is read as one: its first and last line, whether it is set as mathematics, and for which indices."""

    row: int
    end: int
    raw: str
    display: bool = False
    where: str = ""


RELATION = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|implies|rightarrow|longrightarrow|to|mapsto|equiv|coloneqq|triangleq|leftarrow|gets)(?![A-Za-z])"
    r"|\\approx(?![a-z])|≈|⇒|⟹|→|⟶|↦|≔|≡|←|:=|=>|-{1,2}>|[-+*/]=(?![=>])|(?<![<>!=:])={1,2}(?!=)"
)
SINGLE = re.compile(RELATION.pattern.replace("={1,2}", "="))
ARROWS = ("\\rightarrow", "\\longrightarrow", "\\to", "\\mapsto", "→", "⟶", "↦", "->", "-->")
IMPLIES = ("\\Rightarrow", "\\Longrightarrow", "\\implies", "⇒", "⟹", "=>")
_ENVIRONMENT = r"(?:align|aligned|alignat|equation|gather|gathered|eqnarray|split|multline|flalign|tabular|array)\*?"
_DELIMITER = re.compile(rf"(?<!`)`(?!`)|\$\$|\$|\\[\[\]()]|\\(?:begin|end)\{{{_ENVIRONMENT}\}}(?:\{{[lrc|\d ]*\}})?")
_CLOSING = {"$$": "$$", "$": "$", "`": "`", "\\[": "\\]", "\\(": "\\)"}
LABEL = re.compile(r"^\s*(?:[-*+>•]\s+|\(?(?:\d{1,2}|[ivx]{1,4}|[a-k])[.)]\s+|#+\s+|[∴∵]|\\therefore\b)+")


def pieces_of(text: str) -> list[Piece]:
    """What is read as one, statement by statement, in order."""
    pieces: list[Piece] = []
    row, line = 1, []

    def end_line():
        nonlocal line
        if line:
            pieces.extend(_line(line))
        line = []

    for part, kind in _parts(text):
        if kind == "prose":
            for i, piece in enumerate(part.split("\n")):
                if i:
                    end_line()
                    row += 1
                if piece.strip():
                    line.append((row, row, piece, False))
        elif kind == "display":
            end_line()
            pieces += _display(part, row)
            row += part.count("\n")
        else:
            line.append((row, row + part.count("\n"), part, True))
            row += part.count("\n")
    end_line()
    return _joined_lines(_with_conditions(pieces))


def _parts(text: str) -> list[tuple[str, str]]:
    """The text as prose, inline mathematics and displays."""
    parts, position, index = [], 0, 0
    marks = list(_DELIMITER.finditer(text))
    closers: dict[str, list[int]] = {}
    for i, mark in enumerate(marks):
        closers.setdefault(_kind(mark[0]), []).append(i)
    while index < len(marks):
        mark = marks[index]
        later = closers.get(_CLOSING.get(mark[0]) or _kind(mark[0]).replace("begin", "end"), [])
        while later and later[0] <= index:
            later.pop(0)
        inline = mark[0] in ("$", "\\(", "`")
        end = marks[later[0]] if later and (mark[0] in _CLOSING or "begin" in mark[0]) else None
        inside = text[mark.end() : end.start()] if end else ""
        long = inline and len(inside) > MAX_PIECE
        several = inline and not long and sum("=" in row for row in inside.split("\n")) > 1
        code = mark[0] == "`" and ("\n" in inside or not RELATION.search(inside))  # z`, no formula in code
        if end is None or code or (inline and (long or several or "\n\n" in inside)):
            index += 1
            continue
        parts += [(text[position : mark.start()], "prose"), (inside, "inline" if inline else "display")]
        position, index = end.end(), later[0] + 1
    return [*parts, (text[position:], "prose")]


def _kind(mark: str) -> str:
    return re.sub(r"(\})\{.*", r"\1", mark)


def _line(parts: list) -> list[Piece]:
    """A line of text with mathematics in it: one statement if a relation stands outside the $ signs, else one for each."""
    row, end = parts[0][0], parts[-1][1]
    outside = _comment_free(" ".join(p[2] for p in parts if not p[3]))
    formulae = [Piece(p[0], p[1], " ".join(p[2].split()), True) for p in parts if p[3]]
    if formulae and not RELATION.search(outside.strip(" -=>→⇒|")) and not outside.lstrip().startswith("="):
        return formulae
    whole = _comment_free("".join(f" {p[2]} " if p[3] else p[2] for p in parts)).strip()
    if whole.startswith("|") or (
        len(re.findall(r"(?<!\|)\|(?!\|)", whole)) > 1 and "=" in whole and not re.search(r"\|[^|=]*\|", whole)
    ):
        cells = re.split(r"(?<!\|)\|(?!\|)", whole)
        return [Piece(row, end, cell.strip()) for cell in cells if cell.strip() and RELATION.search(cell)]
    whole = re.sub(r"^(?:[-*+]\s+)?(\*\*|__|`)(.*)\1$", r"\2", whole)
    # without a relation it may go on from the line above: then a leading sign is no bullet
    return [Piece(row, end, LABEL.sub("", whole) if RELATION.search(whole) else whole)]


def _comment_free(line: str) -> str:
    return re.split(r"(?<!\S)(?:#|//\s|%\s)", line, maxsplit=1)[0]


def _display(inside: str, row: int) -> list[Piece]:
    r"""The statements of a display: its rows where \\ ends them, and its cells where several hold a relation."""
    environment = r"\\(begin|end)\{(?:cases|rcases|dcases|array|matrix|pmatrix|bmatrix)\}"
    inside = (
        re.sub(rf"\\(?:begin|end)\{{{_ENVIRONMENT}\}}(?:\{{[lrc|\d ]*\}})?|\\hline", " ", inside)
        if "cases" not in inside
        else inside
    )
    inside = re.sub(r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|eqnarray|split)\*?\}", " ", inside)
    rows, level, start = [], 0, 0
    for mark in re.finditer(environment + r"|\\\\(?:\[\d+\w+\])?", inside):
        if mark[0].startswith("\\\\"):
            if level == 0:
                rows.append((start, inside[start : mark.start()]))
                start = mark.end()
        else:
            level += 1 if mark[1] == "begin" else -1
    rows.append((start, inside[start:]))
    found = []
    for start, raw in rows:
        lead = len(raw) - len(raw.lstrip())
        first = row + inside.count("\n", 0, start + lead)
        cells = (
            [c for c in raw.split("&") if SINGLE.search(c) and not c.strip().startswith(("=", "\\Rightarrow"))]
            if "cases" not in raw
            else []
        )
        for cell in cells if len(cells) > 1 and all(SINGLE.search(c) for c in cells) and _separate(raw) else [raw]:
            if cell.strip():
                found.append(Piece(first, first + raw.strip().count("\n"), " ".join(cell.split()), True))
    return found


def _separate(raw: str) -> bool:
    """Whether each cell of a row is an equation of its own."""
    return all(SINGLE.search(cell) and not cell.strip().startswith("=") for cell in raw.split("&") if cell.strip())


def _joined_lines(pieces: list[Piece]) -> list[Piece]:
    """Put a formula that was broken after or before an operator together again; drop lines without a relation."""
    joined: list[Piece] = []
    for piece in pieces:
        if not re.search(r"[^\W_]", piece.raw):
            continue
        if piece.display or RELATION.search(piece.raw):
            joined.append(piece)
        elif joined and not joined[-1].display and piece.row - joined[-1].end <= 1 and len(piece.raw) <= MAX_PIECE:
            before = joined[-1]
            broken = re.search(r"[-+*·×=@⊙]\s*$", before.raw) or re.match(r"[-+*·×@⊙]", piece.raw)
            if (
                broken
                and len(before.raw) <= 4 * MAX_PIECE
                and not foreign(re.sub(r"\([^()]*\)", "", plain(piece.raw)), Vocabulary())
            ):
                joined[-1] = before._replace(end=piece.end, raw=f"{before.raw} {piece.raw}")
    return joined


# --- conditions ----------------------------------------------------------------------------------------------------

_WHERE = re.compile(
    rf"(?i)(?:\\(?:text|mbox|textrm|mathrm)\{{[^{{}}]*\}}|\\q?quad|\b{IF}\b|[\s,(&])*(?<![\w\\{{])"
    r"([i-ocw])\s*(≟|≠|!=|\\neq?(?![a-z])|\\not\s*=)\s*([i-ocw])(?![\w(])\s*[),.:]*"
)


def _with_conditions(pieces: list[Piece]) -> list[Piece]:
    """If i = j: A = B, and A = B for i ≠ j, as A = B with what it holds for; a condition alone is that of what follows."""
    found: list[Piece] = []
    before = ""
    for at, piece in enumerate(pieces):
        marks = [*_WHERE.finditer(piece.raw)] if len(piece.raw) <= MAX_PIECE else []
        if (
            len(marks) != 1
            or re.search(
                r"cases|otherwise|else|[Σ∑]|\\sum", piece.raw[: marks[0].start()] + piece.raw[marks[0].end() :]
            )
            or piece.raw.count("≟") > 1
        ):
            whole = piece
        else:
            (mark,) = marks
            rest = f"{piece.raw[: mark.start()]} {piece.raw[mark.end() :]}".strip()
            where = f"{mark[1]} {'≟' if mark[2] == '≟' else '≠'} {mark[3]}"
            if not RELATION.search(rest):
                ends = found and found[-1].row == piece.row and not any(p.row == piece.row for p in pieces[at + 1 :])
                if ends:  # $A = B$ if $i = j$
                    found[-1] = found[-1]._replace(where=where)
                before = "" if ends else where
                continue
            whole = piece._replace(raw=rest, where=where)
        found.append(whole if whole.where or not RELATION.search(whole.raw) else whole._replace(where=before))
        before = before if not RELATION.search(whole.raw) else ""
    return found


# --- tables ----------------------------------------------------------------------------------------------------

_RULE = re.compile(r"\s*\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?\s*")
_SIZES = re.compile(
    r"(?i)\b(?:shape|size|dim\w*|unit|units|meaning|type|cost|flops|Größe\s*\|\s*Bedeutung|Bedeutung|forme|taille)\b"
)


def tables(text: str) -> str:
    """Rows of a Markdown table whose cells split an equation, as the equation: | z | = w x |, or | dL/dw | x dz |.

    Without an equals sign the table must have two columns, a rule below its header, and a derivative in its first column.
    """
    rows = text.split("\n")
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and rows[end].lstrip().startswith("|"):
            end += 1
        if end > start:
            rows[start:end] = _table(rows[start:end])
        start = end + 1
    return "\n".join(rows)


def _table(rows: list[str]) -> list[str]:
    cells = [
        [c.strip() for c in re.split(r"(?<!\|)\|(?!\|)", row.strip().removeprefix("|").removesuffix("|"))]
        for row in rows
    ]
    rule = next((i for i, row in enumerate(rows) if _RULE.fullmatch(row)), None)
    plain_rows = rule is not None and not _SIZES.search(" ".join(rows[:rule])) and all(len(c) == 2 for c in cells)
    plain_rows = plain_rows and any(
        re.match(r"(?:\$|\\frac\{|\\\(|`|\s)*(?:d|∂|\\partial)\s*\S.*[/}]", c[0]) for c in cells
    )
    found = []
    for i, (row, parts) in enumerate(zip(rows, cells, strict=True)):
        at_edges = [c for c in parts if re.match(r"[$`\s]*=(?!=)", c) or re.search(r"(?<![=<>!])=[$`\s]*$", c)]
        if at_edges and len(parts) > 1 and not parts[0].startswith("=") and len(RELATION.findall(row)) == 1:
            found.append(" ".join(parts))
        elif plain_rows and rule is not None and i > rule and not RELATION.search(row) and _pair(*parts):
            found.append(f"{parts[0]} = {parts[1]}")
        else:
            found.append(row)
    return found


def _pair(left: str, right: str) -> bool:
    """Whether two cells are a name or a derivative, and a formula: no sizes, no words."""
    known = vocabulary(f"{left} = {right}")
    a, b = (side_of(side.replace("$", "").strip("`"), known, first=side == left) for side in (left, right))
    is_size = re.search(r"\d\s*[x×,]\s*\d", right)
    return (
        isinstance(a, Expr)
        and a.op in ("name", "derivative", "second")
        and isinstance(b, Expr)
        and b.op != "name"
        and not is_size
    )
