"""The equations in a text: found between the prose, chains split, remarks and boxes taken off.

    text --> pieces (a display, an inline formula, a line) --> statements --> chains A = B = C of `Expr`

What looks like an equation and cannot be read stays, as `Unread`; words alone are passed over.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.formula import Expr
from jaxbackprop.grading.notation import ELEMENTWISE, GENERIC, MAX_PIECE, NAME, Unread, parse, plain

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

    `bare` marks a formula that stands alone, without a relation.
    """

    row: int
    links: tuple[Link, ...]
    continues: bool = False
    bare: bool = False


_RELATION = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|implies|rightarrow|longrightarrow|to|mapsto|equiv|coloneqq|triangleq)(?![A-Za-z])"
    r"|⇒|⟹|→|⟶|↦|≔|≡|:=|=>|->|(?<![<>!=:])=(?!=)"
)
_ARROWS = ("\\rightarrow", "\\longrightarrow", "\\to", "\\mapsto", "→", "⟶", "↦", "->")
_IMPLIES = ("\\Rightarrow", "\\Longrightarrow", "\\implies", "⇒", "⟹", "=>")
_DELIMITER = re.compile(
    r"\$\$|\$|\\[\[\]()]|\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|eqnarray|split)\*?\}"
)
_CLOSING = {"$$": "$$", "$": "$", "\\[": "\\]", "\\(": "\\)"}
_LABEL = re.compile(r"^\s*(?:[-*+>]\s+|\(?(?:\d{1,2}|[ivx]{1,4}|[a-k])[.)]\s+|#+\s+|\|)+")
_WORD = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z][A-Za-z']*[A-Za-z](?![A-Za-z0-9_])|[^\x00-\u024f\u0370-\u03ff\u2000-\u2fff]{2,}"
)
_CONNECTIVE = re.compile(
    r"(?:because|since|as|where|which|due|by|from|using|via|follows|here|note|this|thus|so|see|is|are)\b"
)
_READABLE = re.compile(
    rf"(?:d?(?:{NAME})|d)+|(?:{ELEMENTWISE}|{GENERIC}|max|min|maximum|minimum|where|outer|transpose|sum|T)'*|if|for|when|and|otherwise|else|elsewhere"
)


def chains(text: str) -> list[Chain]:
    """Every chain of equalities in a text, in order; prose without mathematics is left out.

    Raises:
        ValueError: the text is too long, or holds too many equations.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are read: grade it in parts")
    found: list[Chain] = []
    count = 0
    for row, raw, display in _pieces(text):
        for chain in _statements(row, raw, display):
            count += max(1, len(chain.links) - 1 + chain.continues)
            _few(count)
            found.append(chain)
    return found


def _few(equations: int):
    if equations > MAX_EQUATIONS:
        raise ValueError(f"the text has more than {MAX_EQUATIONS} equations: grade it in parts")


def _pieces(text: str) -> list[tuple[int, str, bool]]:
    """(row, text, whether it is set as mathematics), statement by statement, in order."""
    pieces, prose, row = [], [], 1
    position = 0
    marks = list(_DELIMITER.finditer(text))
    closers: dict[str, list[int]] = {}
    for index, mark in enumerate(marks):
        closers.setdefault(mark[0], []).append(index)

    def flush(upto):
        prose.append(text[position:upto])

    index = 0
    while index < len(marks):
        mark = marks[index]
        closing = _CLOSING.get(mark[0]) or mark[0].replace("begin", "end")
        later = closers.get(closing, [])
        while later and later[0] <= index:
            later.pop(0)
        opens = mark[0] in _CLOSING or "begin" in mark[0]
        if not opens or not later:
            index += 1
            continue
        end = marks[later[0]]
        inside = text[mark.end() : end.start()]
        if mark[0] in ("$", "\\(") and ("\n\n" in inside or len(inside) > MAX_PIECE):
            index += 1
            continue
        flush(mark.start())
        prose.append((mark[0] not in ("$", "\\("), inside))
        position = end.end()
        index = later[0] + 1
    flush(len(text))
    # back to lines: inline mathematics belongs to its line, a display is a piece of its own
    line: list = []

    def end_line():
        nonlocal line
        if line:
            pieces.extend(_line(row, line))
        line = []

    for part in prose:
        if isinstance(part, str):
            for i, piece in enumerate(part.split("\n")):
                if i:
                    end_line()
                    row += 1
                if piece.strip():
                    line.append(piece)
        elif part[0]:
            end_line()
            pieces += [(row, statement, True) for statement in _display(part[1])]
            row += part[1].count("\n")
        else:
            line.append(part)
            row += part[1].count("\n")
    end_line()
    return _joined_lines(pieces)


def _line(row: int, parts: list) -> list[tuple[int, str, bool]]:
    """A line of text with mathematics in it: one statement if a relation stands outside the $ signs, else one for each."""
    outside = _comment_free(" ".join(p for p in parts if isinstance(p, str)))
    formulae = [(row, p[1].strip(), True) for p in parts if not isinstance(p, str)]
    if formulae and not _RELATION.search(outside.strip(" -=>→⇒|")) and not outside.lstrip().startswith("="):
        return formulae
    whole = _comment_free("".join(p if isinstance(p, str) else f" {p[1]} " for p in parts)).strip()
    whole = re.sub(r"^(?:[-*+]\s+)?(\*\*|__|`)(.*)\1$", r"\2", whole)
    # without a relation it may go on from the line above: then a leading sign is no bullet
    return [(row, _LABEL.sub("", whole) if _RELATION.search(whole) else whole, False)]


def _comment_free(line: str) -> str:
    return re.split(r"(?<!\S)(?:#|//|%)\s", line, maxsplit=1)[0]


def _display(inside: str) -> list[str]:
    r"""The statements of a display: its lines where \\\\ ends them, each with a relation or going on from the one before."""
    environment = re.compile(r"\\(begin|end)\{(?:cases|rcases|dcases|array|matrix|pmatrix|bmatrix)\}")
    inside = re.sub(r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|eqnarray|split)\*?\}", " ", inside)
    rows, level, start = [], 0, 0
    for mark in re.finditer(environment.pattern + r"|\\\\", inside):
        if mark[0] == "\\\\":
            if level == 0:
                rows.append(inside[start : mark.start()])
                start = mark.end()
        else:
            level += 1 if mark[1] == "begin" else -1
    rows.append(inside[start:])
    return [" ".join(r.split()) for r in rows if r.strip()]


def _joined_lines(pieces: list[tuple[int, str, bool]]) -> list[tuple[int, str, bool]]:
    """Put a formula that was broken after or before an operator together again; drop lines without a relation."""
    joined: list[tuple[int, str, bool]] = []
    end = 0  # the row on which the last statement ends
    for row, raw, display in pieces:
        if display or (_RELATION.search(raw) and not (joined and joined[-1][1].endswith("="))):
            joined.append((row, raw, display))
            end = row
        elif joined and not joined[-1][2] and row - end <= 1 and len(raw) <= MAX_PIECE:
            first, before, _ = joined[-1]
            broken = re.search(r"[-+*·×=@⊙]$", before) or re.match(r"[-+*·×@⊙]", raw)
            if broken and len(before) <= 4 * MAX_PIECE and not _foreign(re.sub(r"\([^()]*\)", "", plain(raw))):
                joined[-1] = (first, f"{before} {raw}", False)
                end = row
    return joined


def _split(raw: str, pattern: re.Pattern, keep_brackets: bool = False) -> list[tuple[str, str]]:
    """Split where `pattern` matches outside braces, parentheses and cases: [(separator before, piece), ...]."""
    opening, closing = ("{(", "})") if keep_brackets else ("{([", "})]")
    level, start, before, parts, position = 0, 0, "", [], 0
    while position < len(raw):
        if raw.startswith(("\\begin", "\\end"), position):
            level += 1 if raw.startswith("\\begin", position) else -1
            position += 4
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
    r"\\q?quad(?![A-Za-z])|[,;](?!\\)|(?<![A-Za-z])(?:and|where|with|so|then|since|because|hence|thus|therefore)(?![A-Za-z0-9_(])",
)


def _statements(row: int, raw: str, display: bool) -> list[Chain]:
    """Split a piece at commas and conjunctions into chains, where each part has a relation of its own."""
    if len(raw) > 4 * MAX_PIECE:
        return _chains_of(row, raw, display)
    split = _split(raw, _SEPARATOR)
    if len(split) > MAX_PARTS:
        return _chains_of(row, raw, display)
    parts: list[list] = []
    glued = 0
    for separator, part in split:
        if _RELATION.search(part) or not parts:
            parts.append([separator, part])
        elif glued < 12 and _readable_together(parts[-1][1] + separator + part):
            glued += 1
            parts[-1][1] += separator + part
        elif re.search(r"[A-Za-z0-9]", part) and not _is_prose(part):
            parts.append([separator, part])
    found = []
    for _, part in parts:
        if part.strip(" ,.;"):
            found.extend(_chains_of(row, part.strip(), display))
    return found


def _readable_together(raw: str) -> bool:
    last = _split(raw, _RELATION, keep_brackets=True)[-1][1]
    return isinstance(_read(last), Expr)


def _is_prose(raw: str) -> bool:
    """Words only, or a symbol that is merely mentioned."""
    text = plain(raw[: 4 * MAX_PIECE])
    return not re.search(r"[*+/^@⊙∂{\[(\\]", _comments_out(text)) and not re.fullmatch(rf"d\s*(?:{NAME})\s*/.*", text)


def _chains_of(row: int, raw: str, display: bool) -> list[Chain]:
    links = _split(raw, _RELATION, keep_brackets=True)
    _few(len(links) - 1)  # before each is read
    if not any(_substance(link) for _, link in links):
        return []
    while len(links) > 1 and (links[-1][0] in _ARROWS or len(links) > 2) and not _substance(links[-1][1]):
        links.pop()  # an arrow to a remark in words, or the chain goes on below
    if len(links) > 1 and not _substance(links[0][1]) and links[1][0].strip() != "=":
        links = [("", links[1][1]), *links[2:]]  # an arrow in front
    continues = len(links) > 1 and not _substance(links[0][1])
    if len(links) == 1:
        if not display or _is_prose(links[0][1]):
            return []
        return [Chain(row, (Link("", raw.strip(), _read(links[0][1])),), continues=True, bare=True)]
    # A = B => C = D says two things
    for index in range(1, len(links) - 1):
        implied = links[index][0] in _IMPLIES and any(r not in _IMPLIES for r, _ in links[1:])
        if implied and isinstance(_read(links[index][1], first=True), Expr):
            whole = [links[:index], [("", links[index][1]), *links[index + 1 :]]]
            if all(len(part) > 1 for part in whole):
                return [chain for part in whole for chain in [_chain(row, part, continues and part is whole[0])]]
    return [_chain(row, links, continues)]


def _substance(raw: str) -> bool:
    """Whether anything but words, brackets and punctuation is left."""
    if len(raw) > 4 * MAX_PIECE:
        return True
    text = _comments_out(plain(raw))
    return bool(re.search(r"[A-Za-z0-9\\]", text))


def _comments_out(text: str) -> str:
    return _WORD.sub(lambda m: m[0] if _READABLE.fullmatch(m[0]) else " ", text)


def _chain(row: int, links: list[tuple[str, str]], continues: bool) -> Chain:
    last = len(links) - 1
    read = []
    for index, (relation, raw) in enumerate(links):
        if index == 0 and continues:
            continue
        kind = "→" if relation in _ARROWS else "⇒" if relation in _IMPLIES else "="
        read.append(
            Link(kind if index else "", " ".join(raw.split()).strip(" ,;"), _read(raw, index == 0, index == last))
        )
    return Chain(row, tuple(read), continues)


def _read(raw: str, first: bool = False, last: bool = True) -> Expr | Unread:
    """One side: boxes, remarks in words and labels taken off, then parsed."""
    if len(raw) > 4 * MAX_PIECE:
        return Unread(f"one side of the equation has {len(raw):,} characters; at most {MAX_PIECE:,} are read")
    text = re.sub(r"\btimes\b", "*", _unboxed(plain(raw)))
    text = re.sub(r"\([^()]*\)", lambda m: "" if _foreign(m[0]) else m[0], text)
    if last:
        text = re.sub(r"\s+\(\d{1,2}\)$", "", text)
    if first:
        text = text.rsplit(":", 1)[-1]
    foreign = _foreign(text)
    if foreign and first:
        text = text[foreign[-1].end() :]
    elif foreign and last:
        rest = text[foreign[0].start() :]
        if not _CONNECTIVE.match(rest) and re.search(r"[*+/^@⊙∂{(\[\\\d]", rest):
            return Unread(f"cannot read {rest[:30]!r}")
        text = text[: foreign[0].start()]
    elif foreign:
        return Unread(f"cannot read {text[foreign[0].start() :][:30]!r}")
    text = _unboxed(text.strip(" ,.;:|'")) if first else text.strip(" ,.;:|")
    if not text and raw.strip():
        return Unread(f"cannot read {' '.join(raw.split())[:60]!r}: words, no formula")
    return parse(text)


def _foreign(text: str) -> list[re.Match]:
    return [m for m in _WORD.finditer(text) if not _READABLE.fullmatch(m[0])]


def _unboxed(text: str) -> str:
    """Drop a bracket that has no partner: half of a box around a whole equation."""
    text = text.strip()
    while text.startswith("[") and text.count("[") > text.count("]"):
        text = text[1:].strip()
    while text.endswith("]") and text.count("]") > text.count("["):
        text = text[:-1].strip()
    return text
