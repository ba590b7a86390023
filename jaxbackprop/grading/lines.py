r"""The equations of a text: found between the prose, chains split, remarks and boxes taken off; no line is lost.

    text --> pieces (a row of a display, a cell, an inline formula, a line) --> statements --> chains A = B = C of `Expr`

Every line with an equals sign ends in a chain. What was not read WHOLE, because a word or a bracket is left over that is
not plainly a remark, stays as `Unread`; words alone are passed over.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.expression import Expr
from jaxbackprop.grading.grammar import MAX_PIECE, Unread, parse
from jaxbackprop.grading.notation import Vocabulary, is_formula, plain, vocabulary

MAX_TEXT = 100_000  # characters in a text
MAX_EQUATIONS = 400  # in a text
MAX_PARTS = 60  # between the commas of one line


class Link(NamedTuple):
    """One side of a chain A = B = C: what stands before it, what was written, and what that says."""

    relation: str
    raw: str
    expr: Expr | Unread


class Chain(NamedTuple):
    """A chain of equalities: the line it begins on, its links, and whether it goes on from the chain before.

    `bare` marks a formula that stands alone, without a relation; `where` says for which indices it holds: "i ≟ j".
    """

    row: int
    links: tuple[Link, ...]
    continues: bool = False
    bare: bool = False
    where: str = ""


class Piece(NamedTuple):
    """A stretch of text that is read as one: its first and last line, whether it is set as mathematics, and for which indices."""

    row: int
    end: int
    raw: str
    display: bool = False
    where: str = ""


_RELATION = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|implies|rightarrow|longrightarrow|to|mapsto|equiv|coloneqq|triangleq|leftarrow|gets)(?![A-Za-z])"
    r"|\\approx(?![a-z])|≈|⇒|⟹|→|⟶|↦|≔|≡|←|:=|=>|-{1,2}>|[-+*/]=(?![=>])|(?<![<>!=:])={1,2}(?!=)"
)
_SINGLE = re.compile(_RELATION.pattern.replace("={1,2}", "="))
_ARROWS = ("\\rightarrow", "\\longrightarrow", "\\to", "\\mapsto", "→", "⟶", "↦", "->", "-->")
_IMPLIES = ("\\Rightarrow", "\\Longrightarrow", "\\implies", "⇒", "⟹", "=>")
_ENVIRONMENT = r"(?:align|aligned|alignat|equation|gather|gathered|eqnarray|split|multline|flalign|tabular|array)\*?"
_DELIMITER = re.compile(rf"\$\$|\$|\\[\[\]()]|\\(?:begin|end)\{{{_ENVIRONMENT}\}}(?:\{{[lrc|\d ]*\}})?")
_CLOSING = {"$$": "$$", "$": "$", "\\[": "\\]", "\\(": "\\)"}
_LABEL = re.compile(r"^\s*(?:[-*+>•]\s+|\(?(?:\d{1,2}|[ivx]{1,4}|[a-k])[.)]\s+|#+\s+|[∴∵]|\\therefore\b)+")
_WORD = re.compile(
    r"(?<![A-Za-z0-9_À-ɏ⟨⨍∂:])[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ']*[A-Za-zÀ-ɏ](?:_\w+|\d+)?(?![A-Za-z0-9_À-ɏ⟩:])|[^\x00-\u024f\u0300-\u03ff\u2000-\u2fff⨍∂]{2,}"
)
_PLAIN_WORDS = re.compile(
    r"(?i)\b(?:because|since|as|where|which|due|by|from|using|via|follows|here|note|this|thus|so|see|is|are|the|a|an|of|with|per|to|in|on"
    r"|for|at|we|it|my|chain|rule|mistake|wrong|right|again|same|not|no|and|i|given|again|upstream|local|times|only|case"
    r"|weil|da|denn|nach|aus|mit|der|die|das|ist|wegen|durch|von|kettenregel|also|hier|siehe|folgt|und|ein|eine|im|für|bei"
    r"|car|par|puisque|avec|selon|d'après|le|la|les|est|on|règle|chaîne|de|du|des|donc|voir|ici|pour|dans|et|un|une)\b"
)
_CONNECTIVE = re.compile(
    r"(?i)(?:because|since|as|where|which|due|by|from|using|via|follows|here|note|this|thus|so|see|is|are|with|weil|da|denn|nach|aus|mit"
    r"|wegen|durch|laut|siehe|car|par|puisque|avec|selon|d'après|voir|où|wobei)\b"
)
_MATHS = re.compile(r"[*+/^@⊙∂{}\[\]\\Σ⨍=<>]|\d")


def chains(text: str, given: Vocabulary | None = None) -> list[Chain]:
    """Every chain of equalities in a text, in order; prose without mathematics is left out.

    Raises:
        ValueError: the text is too long, or holds too many equations.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are read: grade it in parts")
    text = _tables(_unboxed_text(_one_way(text)))
    known = given or vocabulary(text)
    found: list[Chain] = []
    covered: set[int] = set()
    count = 0
    for piece in _pieces(text):
        for chain in _statements(piece, known):
            count += max(1, len(chain.links) - 1 + chain.continues)
            _few(count)
            found.append(chain)
            covered.update(range(piece.row, piece.end + 1))
    lost = [row for row, line in enumerate(text.split("\n"), 1) if row not in covered and _has_equation(line)]
    _few(count + len(lost))
    found += [_unread_row(row, text.split("\n")[row - 1]) for row in lost[:MAX_EQUATIONS]]
    return sorted(found, key=lambda c: c.row) if lost else found


def _one_way(text: str) -> str:
    """What is typed in several ways in one: decimal commas, dx, dy = a, b, heads of loops, and words that join two equations."""
    comma = r"(?<![\d,.\[(])(-?\d+),(\d+)(?!\d*(?:,\d|[\])]))"
    if re.search(rf"=\s*{comma}", text) and not re.search(r"\d\.\d", text):
        text = re.sub(comma, r"\1.\2", text)
    text = re.sub(
        r"(?m)^([ \t]*)([^\W\d][\w.]*(?:[ \t]*,[ \t]*[^\W\d][\w.]*)+)[ \t]*=(?!=)[ \t]*([^\n]+)$", _one_by_one, text
    )
    text = re.sub(
        r"(?m)^(\s*)[Ff]or\s+\w+\s*(?:in\b|=[^\n:]*(?:…|\.\.|,|\bto\b))[^\n:]*:", r"\1", text
    )  # for t = T, …, 1:
    text = re.sub(r"\bOn a\b(?!\s*=)", "On  ", text)
    quotient = r"[∂d][A-Za-z]?\w*\s*/\s*[∂d]\s*\w+\s*="
    text = re.sub(
        rf"(?<=\S)(?:[ \t]{{3,}}|[ \t]+(?:och|og|en|while|but|samt|sowie|&|y|e|i)[ \t]+)(?={quotient})", "; ", text
    )
    text = re.sub(r"(?<=\w[ \t])([eyi])(?=[ \t]+[A-Za-z]\w*[ \t]*=[^=])(?<!=\s[eyi])", ";", text)
    text = _SYMMETRIC.sub(lambda m: f"; {m[1] or m[2]} = {m[1] or m[2]}^T;", text)
    indices = {*re.findall(r"_\{?[a-z]?,?([a-z])(?![a-z])", text), *re.findall(r"[_{]([a-z])[a-z]?\}", text)}

    def condition(m: re.Match) -> str:
        return f"{m[1]}{m[2]} ≟ {m[3]}" if {m[2], m[3]} <= indices and m[2] != m[3] else m[0]

    return _EQUAL_INDICES.sub(condition, text)


_SYMMETRIC = re.compile(
    r"[(,;]?[ \t]*(?:(?:[Ii]f|[Ff]or|[Ww]ith|[Ww]here|[Ww]hen|[Ll]et|[Ff]alls|[Ff]ür|[Mm]it|[Ss]i|[Aa]vec)[ \t]+)?"
    r"(?:\$?([A-Z])\$?[ \t]+(?:is |be |ist |est |es |)(?:symmetric|symmetrisch|symétrique|simétrica)\b"
    r"|(?:a |the )?(?:symmetric|symmetrische[sn]?)[ \t]+(?:matrix[ \t]+|Matrix[ \t]+)?\$?([A-Z])(?![\w(])\$?)[),.:]?"
)
_IF = r"(?:if|for|when|where|case|wenn|falls|für|si|pour|quand|cas|fall)"
_EQUAL_INDICES = re.compile(  # if i = j, (i = j), & i = j, i = j:
    rf"(?im)((?:\b{_IF}|\\(?:text|mbox|textrm|mathrm)\{{[^{{}}]*{_IF}\s*\}}|[,(&]|\\q?quad|^[-*\s]*)\s*\$?\s*)([i-nc])\s*&?={{1,2}}\s*([i-nc])(?=\s*(?:$|[$,;:).&\\}}]|\b[a-z]{{2}}))"
)
_WHERE = re.compile(
    rf"(?i)[\s,(&]*(?:\\(?:text|mbox|textrm|mathrm)\{{[^{{}}]*\}}|\\q?quad|\b{_IF}\b|[\s,(&])*(?<![\w\\{{])([i-nc])\s*(≟|≠|!=|\\neq?(?![a-z])|\\not\s*=)\s*([i-nc])(?![\w(])\s*[),.:]*"
)


def _with_conditions(pieces: list[Piece]) -> list[Piece]:
    """If i = j: A = B, and A = B for i ≠ j, as A = B with what it holds for; a condition alone is that of what follows."""
    found: list[Piece] = []
    before = ""
    for piece in pieces:
        marks = [*_WHERE.finditer(piece.raw)]
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
            if not _RELATION.search(rest):
                before = where
                continue
            whole = piece._replace(raw=rest, where=where)
        found.append(whole if whole.where or not _RELATION.search(whole.raw) else whole._replace(where=before))
        before = before if not _RELATION.search(whole.raw) else ""
    return found


def _one_by_one(match: re.Match) -> str:
    """dx, dy = dz * y, dz * x as dx = dz * y; dy = dz * x."""
    names_ = [v.strip() for v in match[2].split(",")]
    values = [v for _, v in _split(match[3], re.compile(","))]
    several = "=" in re.sub(r"\([^()]*\)", "", match[3])  # x, z = w x, L = z^2
    if several or len(names_) != len(values) or not all(re.search(r"\w", v) for v in values):
        return match[0]
    return match[1] + "; ".join(f"{v} = {value.strip()}" for v, value in zip(names_, values, strict=True))


def _has_equation(line: str) -> bool:
    return bool(
        re.search(r"(?<![<>!])=(?!>)", line) and re.search(r"[^\W_]", line) and not re.match(r"\s*(```|~~~)", line)
    )


def _unread_row(row: int, line: str) -> Chain:
    raw = " ".join(line.split())
    reason = Unread(f"cannot read {raw[:60]!r}")
    return Chain(row, (Link("", raw[:MAX_PIECE], reason), Link("=", "", reason)))


def _few(equations: int):
    if equations > MAX_EQUATIONS:
        raise ValueError(f"the text has more than {MAX_EQUATIONS} equations: grade it in parts")


def _unboxed_text(text: str) -> str:
    r"""\boxed{A = B} as A = B, lines kept."""
    text = re.sub(
        r"\\left\s*\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?((?:(?!\\begin).)*?)\\end\{array\}\s*\\right\s*\.",
        lambda m: rf"\begin{{cases}}{m[1]}\end{{cases}}", text, flags=re.DOTALL,
    )  # fmt: skip
    for _ in range(100):
        mark = re.search(r"\\(?:boxed|fbox|colorbox\{\w+\}|underline|cancel)\s*\{", text)
        if not mark:
            break
        level, at = 1, mark.end()
        while at < len(text) and level and at - mark.end() < 4 * MAX_PIECE:
            level += (text[at] == "{") - (text[at] == "}")
            at += 1
        if level:
            break
        text = text[: mark.start()] + " " + text[mark.end() : at - 1] + " " + text[at:]
    return text


_RULE = re.compile(r"\s*\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?\s*")
_SIZES = re.compile(
    r"(?i)\b(?:shape|size|dim\w*|unit|units|meaning|type|cost|flops|Größe\s*\|\s*Bedeutung|Bedeutung|forme|taille)\b"
)


def _tables(text: str) -> str:
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
        if at_edges and len(parts) > 1 and not parts[0].startswith("=") and len(_RELATION.findall(row)) == 1:
            found.append(" ".join(parts))
        elif plain_rows and rule is not None and i > rule and not _RELATION.search(row) and _pair(*parts):
            found.append(f"{parts[0]} = {parts[1]}")
        else:
            found.append(row)
    return found


def _pair(left: str, right: str) -> bool:
    """Whether two cells are a name or a derivative, and a formula: no sizes, no words."""
    known = vocabulary(f"{left} = {right}")
    a, b = (_read(side.replace("$", "").strip("`"), known, first=side == left) for side in (left, right))
    is_size = re.search(r"\d\s*[x×,]\s*\d", right)
    return (
        isinstance(a, Expr)
        and a.op in ("name", "derivative", "second")
        and isinstance(b, Expr)
        and b.op != "name"
        and not is_size
    )


# --- pieces ----------------------------------------------------------------------------------------------------------


def _pieces(text: str) -> list[Piece]:
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
        inline = mark[0] in ("$", "\\(")
        end = marks[later[0]] if later and (mark[0] in _CLOSING or "begin" in mark[0]) else None
        inside = text[mark.end() : end.start()] if end else ""
        several = sum("=" in row for row in inside.split("\n")) > 1
        if end is None or (inline and ("\n\n" in inside or several or len(inside) > MAX_PIECE)):
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
    if formulae and not _RELATION.search(outside.strip(" -=>→⇒|")) and not outside.lstrip().startswith("="):
        return formulae
    whole = _comment_free("".join(f" {p[2]} " if p[3] else p[2] for p in parts)).strip()
    if whole.startswith("|") or (
        len(re.findall(r"(?<!\|)\|(?!\|)", whole)) > 1 and "=" in whole and not re.search(r"\|[^|=]*\|", whole)
    ):
        cells = re.split(r"(?<!\|)\|(?!\|)", whole)
        return [Piece(row, end, cell.strip()) for cell in cells if cell.strip() and _RELATION.search(cell)]
    whole = re.sub(r"^(?:[-*+]\s+)?(\*\*|__|`)(.*)\1$", r"\2", whole)
    # without a relation it may go on from the line above: then a leading sign is no bullet
    return [Piece(row, end, _LABEL.sub("", whole) if _RELATION.search(whole) else whole)]


def _comment_free(line: str) -> str:
    return re.split(r"(?<!\S)(?:#|//|%)\s", line, maxsplit=1)[0]


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
            [c for c in raw.split("&") if _SINGLE.search(c) and not c.strip().startswith(("=", "\\Rightarrow"))]
            if "cases" not in raw
            else []
        )
        for cell in cells if len(cells) > 1 and all(_SINGLE.search(c) for c in cells) and _separate(raw) else [raw]:
            if cell.strip():
                found.append(Piece(first, first + raw.strip().count("\n"), " ".join(cell.split()), True))
    return found


def _separate(raw: str) -> bool:
    """Whether each cell of a row is an equation of its own."""
    return all(_SINGLE.search(cell) and not cell.strip().startswith("=") for cell in raw.split("&") if cell.strip())


def _joined_lines(pieces: list[Piece]) -> list[Piece]:
    """Put a formula that was broken after or before an operator together again; drop lines without a relation."""
    joined: list[Piece] = []
    for piece in pieces:
        if not re.search(r"[^\W_]", piece.raw):
            continue
        if piece.display or _RELATION.search(piece.raw):
            joined.append(piece)
        elif joined and not joined[-1].display and piece.row - joined[-1].end <= 1 and len(piece.raw) <= MAX_PIECE:
            before = joined[-1]
            broken = re.search(r"[-+*·×=@⊙]\s*$", before.raw) or re.match(r"[-+*·×@⊙]", piece.raw)
            if (
                broken
                and len(before.raw) <= 4 * MAX_PIECE
                and not _foreign(re.sub(r"\([^()]*\)", "", plain(piece.raw)), Vocabulary())
            ):
                joined[-1] = before._replace(end=piece.end, raw=f"{before.raw} {piece.raw}")
    return joined


# --- statements ------------------------------------------------------------------------------------------------------


_DELTA = re.compile(r"\[\s*[a-z]\s*=\s*[a-z]\s*\]")


def _split(raw: str, pattern: re.Pattern, keep_brackets: bool = False) -> list[tuple[str, str]]:
    """Split where `pattern` matches outside braces, parentheses and cases: [(separator before, piece), ...]."""
    opening, closing = ("{(", "})") if keep_brackets else ("{([", "})]")
    level, start, before, parts, position = 0, 0, "", [], 0
    while position < len(raw):
        if raw.startswith(("\\begin", "\\end"), position):
            level += 1 if raw.startswith("\\begin", position) else -1
            position += 4
            continue
        delta = (
            _DELTA.match(raw, position) if raw[:position].strip() else None
        )  # [j = k], and no box around an equation
        if delta:
            position = delta.end()
            continue
        match = pattern.match(raw, position) if level <= 0 else None
        if match:
            parts.append((before, raw[start:position]))
            before, start, position = match[0], match.end(), match.end()
            continue
        level += (raw[position] in opening) - (raw[position] in closing)
        position += 1
    return [*parts, (before, raw[start:])]


_SEPARATOR = re.compile(
    r"\\q?quad(?![A-Za-z])|(?<!\\)[,;](?!\\\\)|[∴∵]|\\therefore|(?<![A-Za-z])(?:and|where|with|so|then|since|because|hence|thus|therefore|also|daher"
    r"|und|damit|weil|wobei|mit|donc|où|avec|et|alors)(?![A-Za-z0-9_(])|\.\s+(?=[A-ZÀ-ÞЀ-Я][a-zà-ÿа-я]+\s)",
)


def _statements(piece: Piece, known: Vocabulary) -> list[Chain]:
    """Split a piece at commas and conjunctions into chains, where each part has a relation of its own."""
    raw = _LABEL.sub("", piece.raw) if piece.display else piece.raw
    if len(raw) > 4 * MAX_PIECE:
        return _chains_of(piece, raw, known)
    split = _split(raw, _SEPARATOR)
    if len(split) > MAX_PARTS:
        return _chains_of(piece, raw, known)
    parts: list[str] = []
    glued = 0
    for separator, part in split:
        if _RELATION.search(part) or not parts:
            parts.append(part)
        elif glued < 12 and _readable_together(parts[-1] + separator + part, known):
            glued += 1
            parts[-1] += separator + part
        elif re.search(r"[A-Za-z0-9]", part) and not _is_prose(part, known):
            parts.append(part)
    found = []
    for part in parts:
        if part.strip(" ,.;"):
            found.extend(_chains_of(piece, part.strip(), known))
    return [c._replace(where=piece.where) for c in found] if piece.where else found


def _readable_together(raw: str, known: Vocabulary) -> bool:
    last = _split(raw, _SINGLE, keep_brackets=True)[-1][1]
    return isinstance(_read(last, known), Expr)


def _is_prose(raw: str, known: Vocabulary) -> bool:
    """Words only, or a symbol that is merely mentioned."""
    text = plain(raw[: 4 * MAX_PIECE], known)
    return not re.search(r"[*+/^@⊙∂{\[(\\]", _comments_out(text, known))


_CODE = re.compile(r"[A-Za-z]\w*")  # dWhy, grad_out: a name, though of nothing known


def _chains_of(piece: Piece, raw: str, known: Vocabulary) -> list[Chain]:
    row = piece.row
    single = _split(raw, _SINGLE, keep_brackets=True)
    links = single if len(single) > 1 else _split(raw, _RELATION, keep_brackets=True)
    _few(len(links) - 1)  # before each is read
    if not any(_substance(link, known) for _, link in links):
        return []
    while len(links) > 1 and (links[-1][0] in _ARROWS or len(links) > 2) and not _substance(links[-1][1], known):
        links.pop()  # an arrow to a remark in words, or the chain goes on below
    if len(links) > 1 and not _substance(links[0][1], known) and links[1][0].strip() not in ("=", "=="):
        links = [("", links[1][1]), *links[2:]]  # an arrow in front
    alone = links[0][1].strip()  # a single word is a name, or a word such as "hence"
    continues = len(links) > 1 and not _substance(alone, known)
    continues = continues and not (_CODE.fullmatch(alone) and not _PLAIN_WORDS.fullmatch(alone))
    if len(links) == 1:
        if not piece.display or _is_prose(links[0][1], known):
            return []
        return [Chain(row, (Link("", raw.strip(), _read(links[0][1], known)),), continues=True, bare=True)]
    # A = B => C = D says two things, x → z = w x → a = g(z) too
    starts = [0]
    for index in range(1, len(links) - 1):
        relation, after = links[index][0], links[index + 1][0]
        implied = relation in _IMPLIES and after not in _IMPLIES and index - starts[-1] > 1
        onward = relation in _ARROWS and after == "=" and (index - starts[-1] > 1 or _CODE.fullmatch(alone))
        if (implied or onward) and isinstance(_read(links[index][1], known, first=True), Expr):
            starts.append(index)
    parts = [links[a:b] for a, b in zip(starts, [*starts[1:], len(links)], strict=True)]
    parts = [part for part in parts if len(part) > 1 or len(parts) == 1]
    if len(starts) > 1 and len(parts[-1]) > 1:
        return [_chain(row, [("", part[0][1]), *part[1:]], continues and part is parts[0], known) for part in parts]
    return [_chain(row, links, continues, known)]


def _substance(raw: str, known: Vocabulary) -> bool:
    """Whether anything but words, brackets and punctuation is left."""
    if len(raw) > 4 * MAX_PIECE:
        return True
    text = _comments_out(plain(raw, known), known)
    return bool(re.search(r"[A-Za-z0-9\\Ͱ-Ͽ∂ℓ]", text))


def _comments_out(text: str, known: Vocabulary) -> str:
    return _WORD.sub(lambda m: m[0] if is_formula(m[0], known) else " ", text)


def _chain(row: int, links: list[tuple[str, str]], continues: bool, known: Vocabulary) -> Chain:
    last = len(links) - 1
    first = plain(links[0][1], known) if len(links[0][1]) <= MAX_PIECE else ""
    boxed = first.count("[") > first.count("]")
    read = []
    for index, (relation, raw) in enumerate(links):
        if index == 0 and continues:
            continue
        kind = "→" if relation in _ARROWS else "⇒" if relation in _IMPLIES else "="
        kind = relation if relation in ("+=", "-=", "*=", "/=") else kind
        expr = _read(raw, known, index == 0, index == last, boxed)
        read.append(Link(kind if index else "", " ".join(raw.split()).strip(" ,;").replace("≟", "="), expr))
    return Chain(row, tuple(read), continues)


# --- one side --------------------------------------------------------------------------------------------------------


# J(w, b) = …: a value, with what it is a function of
_ARGUMENTS = re.compile(
    r"^(?:([A-Za-z]|[Ll]oss|[Cc]ost)\s*\(\s*[\w⟨⟩:]+(?:\s*,\s*[\w⟨⟩:]+)+\s*\)|([LJEC]|[Ll]oss|[Cc]ost)\s*\(\s*[\w⟨⟩:]+\s*\))$"
)


def _read(raw: str, known: Vocabulary, first: bool = False, last: bool = True, boxed: bool = False) -> Expr | Unread:
    """One side: boxes, remarks and labels taken off, then parsed; nothing else may be left over."""
    if len(raw) > 4 * MAX_PIECE:
        return Unread(f"one side of the equation has {len(raw):,} characters; at most {MAX_PIECE:,} are read")
    if last:
        raw = re.split(r"\s(?:--+>?|<-+|←|[—–](?=\s*[A-Za-zÀ-ɏ]{2,})|∴|✓|✗|!!+|\?\?+)(?=\s|$)", raw, maxsplit=1)[0]
    text = re.sub(r"\btimes\b", "*", plain(raw, known))
    text = _unboxed(text) if first or boxed else text
    text = _without_brackets(text, known)
    if isinstance(text, Unread):
        return text
    if last:
        label = re.search(r"(?<=[\w)\]}])\s+\(\d{1,2}[a-z]?\)$", text)
        if label and not re.search(r"⨍\w+'*$", text[: label.start()]):
            text = text[: label.start()]
    if first:
        text = re.split(r":\s", text)[-1]
    text = _without_prose(text, known, first, last)
    if isinstance(text, Unread):
        return text
    text = re.sub(r"[?!]+$|\s[:;]-?[)(D]$", "", text.strip()) if last else text
    text = text.strip(" ,;:|").rstrip(" ,.;:|")
    text = _unboxed(text) if first else text
    text = _ARGUMENTS.sub(lambda m: m[1] or m[2], text) if first else text
    if not text and raw.strip():
        return Unread(f"cannot read {' '.join(raw.split())[:60]!r}: words, no formula")
    return parse(text)


def _without_brackets(text: str, known: Vocabulary) -> str | Unread:
    """Drop remarks in brackets: words, without any operation."""
    for start, end in reversed(_brackets(text)):
        inside = text[start + 1 : end]
        words = _foreign(inside, known)
        if not words or re.search(
            r"[\w⨍']$", text[:start].rstrip(" ") if text[start] == "(" and start and text[start - 1] != " " else ""
        ):
            continue
        if re.search(r"[*+^@⊙∂\\Σ⨍=<>]", inside) and not _PLAIN_WORDS.search(inside):
            return Unread(f"cannot read {words[0][0]!r} in {text[start : end + 1][:40]!r}")
        text = f"{text[:start]} {text[end + 1 :]}"
    return text


def _brackets(text: str) -> list[tuple[int, int]]:
    """Where brackets and quotation marks that stand in no other open and close."""
    closing = {"(": ")", "[": "]", "{": "}", "“": "”"}
    found, stack, start = [], [], 0
    for i, c in enumerate(text):
        if c in closing:
            start = i if not stack else start
            stack.append(closing[c])
        elif stack and c == stack[-1]:
            stack.pop()
            if not stack:
                found.append((start, i))
    quotes = [i for i, c in enumerate(text) if c == '"']
    return sorted(found + list(zip(quotes[::2], quotes[1::2], strict=False)))


def _without_prose(text: str, known: Vocabulary, first: bool, last: bool) -> str | Unread:
    """Drop words before the first side and after the last one."""
    foreign = _foreign(text, known)
    if not foreign:
        return text
    called = next((m for m in foreign if text[: m.start()].endswith(".") and text[m.end() :].startswith("(")), None)
    if called is not None:  # h.foo(w), and no remark
        return Unread(f"cannot read {text[called.start() :][:30]!r}")
    if first:
        before, after = text[: foreign[-1].start()], text[foreign[-1].end() :]
        if _MATHS.search(re.sub(r"\b\w\d*\b|\d", "", before)):
            return Unread(f"cannot read {before.strip()[:30]!r}")
        return (
            re.sub(r"^\s*(?:\d+|\([\w.]+\))\s*[:.)]?\s*(?=[A-Za-z∂])", "", after)
            if after.strip()
            else Unread(f"cannot read {text[:40]!r}: words, no formula")
        )
    if last:
        rest = text[foreign[0].start() :]
        words = re.findall(r"[A-Za-zÀ-ɏ']+", rest)
        symbols = _MATHS.search(re.sub(r"\b[A-Za-z]+\d+\b|\(?\b\d+\b\)?", "", rest))
        if _CONNECTIVE.match(rest) or (
            (not symbols and (len(words) > 1 and _PLAIN_WORDS.search(rest))) or (not symbols and len(words) > 2)
        ):
            return text[: foreign[0].start()]
        return Unread(f"cannot read {rest[:30]!r}")
    return Unread(f"cannot read {text[foreign[0].start() :][:30]!r}")


def _foreign(text: str, known: Vocabulary) -> list[re.Match]:
    return [m for m in _WORD.finditer(text) if not is_formula(m[0], known)]


def _unboxed(text: str) -> str:
    """Drop a bracket that has no partner: half of a box around a whole equation."""
    text = text.strip()
    while text.startswith("[") and text.count("[") > text.count("]"):
        text = text[1:].strip()
    while text.endswith("]") and text.count("]") > text.count("["):
        text = text[:-1].strip()
    return text
