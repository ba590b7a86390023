r"""The equations of a text: found between the prose, chains split, remarks and boxes taken off; no line is lost.

    text --> pieces (a row of a display, a cell, an inline formula, a line) --> statements --> chains A = B = C of `Expr`

Every line with an equals sign ends in a chain. What was not read WHOLE, because a word or a bracket is left over that is
not plainly a remark, stays as `Unread`; words alone are passed over.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.expression import Expr
from jaxbackprop.grading.grammar import MAX_PIECE, Unread
from jaxbackprop.grading.notation import is_formula, plain
from jaxbackprop.grading.pieces import ARROWS, IMPLIES, LABEL, RELATION, SINGLE, Piece, pieces_of, tables
from jaxbackprop.grading.sides import PLAIN_WORDS, WORD, side_of
from jaxbackprop.grading.vocabulary import Vocabulary, vocabulary
from jaxbackprop.grading.wording import one_way, split, unboxed_text

MAX_TEXT = 100_000  # characters in a text
MAX_EQUATIONS = 400  # in a text
MAX_ROWS = 5_000  # lines in a text
MAX_LINE = 4 * MAX_PIECE  # characters in a line
MAX_WORD, MAX_BLANKS = 200, 40  # in a row
_LONG_WORD = re.compile(rf"(?<!\w)\w{{{MAX_WORD + 1},}}")
_LONG_BLANK = re.compile(rf"[^\S\n]{{{MAX_BLANKS + 1},}}")
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


def chains(text: str, given: Vocabulary | None = None) -> list[Chain]:
    """Every chain of equalities in a text, in order; prose without mathematics is left out.

    Raises:
        ValueError: the text is too long, or holds too many equations.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text):,} characters; at most {MAX_TEXT:,} are read: grade it in parts")
    if text.count("\n") >= MAX_ROWS:
        raise ValueError(
            f"the text has {text.count(chr(10)) + 1:,} lines; at most {MAX_ROWS:,} are read: grade it in parts"
        )
    text = "\n".join(
        _LONG_BLANK.sub(" " * MAX_BLANKS, _bounded(row, line)) for row, line in enumerate(text.split("\n"), 1)
    )
    text = tables(unboxed_text(one_way(text)))
    known = given or vocabulary(text)
    found: list[Chain] = []
    covered: set[int] = set()
    count = 0
    for piece in pieces_of(text):
        for chain in _statements(piece, known):
            count += max(1, len(chain.links) - 1 + chain.continues)
            _few(count)
            found.append(chain)
            covered.update(range(piece.row, piece.end + 1))
    rows = text.split("\n")
    lost = [row for row, line in enumerate(rows, 1) if row not in covered and _has_equation(line)]
    _few(count + len(lost))
    found += [_unread_row(row, rows[row - 1]) for row in lost]
    return sorted(found, key=lambda c: c.row) if lost else found


def _bounded(row: int, line: str) -> str:
    """A line that is short enough for patterns that try each of its blanks and letters."""
    if len(line) > MAX_LINE:
        raise ValueError(f"line {row} has {len(line):,} characters; at most {MAX_LINE:,} are read: break it")
    if len(_LONG_WORD.sub("", line)) < len(line):
        raise ValueError(f"line {row} has a word of more than {MAX_WORD} letters")
    return line


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


# --- statements ----------------------------------------------------------------------------------------------------

_CONJUNCTIONS = (
    "gives|yields"
    "|you have|we have|we get|we obtain|you get|one gets|this gives|which gives|it follows that|and|where|with|so|then|since"
    "|because|hence|thus|therefore|also|daher|daraus folgt|ergibt sich|und|damit|weil|wobei|mit|donc|où|avec|et|alors|puis"
    "|on obtient|luego|entonces"
)
_SEPARATOR = re.compile(
    rf"\\q?quad(?![A-Za-z])|(?<!\\)[,;](?!\\\\)|[∴∵]|\\therefore|(?<![A-Za-z])(?:{_CONJUNCTIONS})(?![A-Za-z0-9_(])"
    r"|(?<=[\w)]):\s+(?=[A-Za-z∂\\]\S*\s*=)|\.\s+(?=[A-ZÀ-ÞЀ-Я][a-zà-ÿа-я]+\s)",
)


def _statements(piece: Piece, known: Vocabulary) -> list[Chain]:
    """Split a piece at commas and conjunctions into chains, where each part has a relation of its own."""
    raw = LABEL.sub("", piece.raw) if piece.display else piece.raw
    if len(raw) > 4 * MAX_PIECE:
        return _chains_of(piece, raw, known)
    apart = split(raw, _SEPARATOR)
    if len(apart) > MAX_PARTS:
        return _chains_of(piece, raw, known)
    parts: list[str] = []
    glued = 0
    for separator, part in apart:
        if RELATION.search(part) or not parts:
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
    last = split(raw, SINGLE, keep_brackets=True)[-1][1]
    return isinstance(side_of(last, known), Expr)


def _is_prose(raw: str, known: Vocabulary) -> bool:
    """Words only, or a symbol that is merely mentioned."""
    text = plain(raw[: 4 * MAX_PIECE], known)
    return not re.search(r"[*+/^@⊙∂{\[(\\]", _comments_out(text, known))


_CODE = re.compile(r"[A-Za-z]\w*")  # dWhy, grad_out: a name, though of nothing known


def _chains_of(piece: Piece, raw: str, known: Vocabulary) -> list[Chain]:
    row = piece.row
    single = split(raw, SINGLE, keep_brackets=True)
    links = single if len(single) > 1 else split(raw, RELATION, keep_brackets=True)
    _few(len(links) - 1)  # before each is read
    if not any(_substance(link, known) for _, link in links):
        return []
    while len(links) > 1 and (links[-1][0] in ARROWS or len(links) > 2) and not _substance(links[-1][1], known):
        links.pop()  # an arrow to a remark in words, or the chain goes on below
    if len(links) > 1 and not _substance(links[0][1], known) and links[1][0].strip() not in ("=", "=="):
        links = [("", links[1][1]), *links[2:]]  # an arrow in front
    alone = links[0][1].strip()  # a single word is a name, or a word such as "hence"
    continues = len(links) > 1 and not _substance(alone, known)
    continues = continues and not (_CODE.fullmatch(alone) and not PLAIN_WORDS.fullmatch(alone))
    if len(links) == 1:
        a_set = re.search(r"\\in(?![a-z])|∈|\\sim(?![a-z])", links[0][1])  # x ∈ R^3
        if not piece.display or a_set or _is_prose(links[0][1], known):
            return []
        return [Chain(row, (Link("", raw.strip(), side_of(links[0][1], known)),), continues=True, bare=True)]
    # A = B => C = D says two things, x → z = w x → a = g(z) too
    starts = [0]
    for index in range(1, len(links) - 1):
        relation, after = links[index][0], links[index + 1][0]
        implied = relation in IMPLIES and after not in IMPLIES and index - starts[-1] > 1
        onward = relation in ARROWS and after == "=" and (index - starts[-1] > 1 or _CODE.fullmatch(alone))
        if (implied or onward) and isinstance(side_of(links[index][1], known, first=True), Expr):
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
    return WORD.sub(lambda m: m[0] if is_formula(m[0], known) else " ", text)


def _chain(row: int, links: list[tuple[str, str]], continues: bool, known: Vocabulary) -> Chain:
    last = len(links) - 1
    first = plain(links[0][1], known) if len(links[0][1]) <= MAX_PIECE else ""
    boxed = first.count("[") > first.count("]")
    read = []
    for index, (relation, raw) in enumerate(links):
        if index == 0 and continues:
            continue
        kind = "→" if relation in ARROWS else "⇒" if relation in IMPLIES else "="
        kind = relation if relation in ("+=", "-=", "*=", "/=") else kind
        expr = side_of(raw, known, index == 0, index == last, boxed)
        read.append(Link(kind if index else "", " ".join(raw.split()).strip(" ,;").replace("≟", "="), expr))
    return Chain(row, tuple(read), continues)
