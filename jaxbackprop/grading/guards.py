"""Conditions in front of equations: If z > 0: A = B, otherwise: A = C, as A = B if z > 0; A = C if z <= 0.

A condition may stand in a sentence, on a line of its own, or as the head of a block of code.
"""

import re

from jaxbackprop.grading.grammar import MAX_PIECE

IF = r"(?:if|for|when|where|case|wenn|falls|für|si|pour|quand|cas|fall)"
_THEN = r"(?:then|we have|we get|it is|is|dann|ist|gilt|alors|on a|entonces|that is)"
_SIGN = r"(?:[<>]=?|[≤≥≟]|\\[gl](?:eq?|t)?(?![a-z]))"
_NO_THEN = rf"(?:(?!\b{_THEN}\b)[^=:,;])*?"
_GUARD = re.compile(
    rf"(?i)\s*(?:[-*•]\s+|and\s+)?{IF}\b[\s:]*({_NO_THEN}{_SIGN}{_NO_THEN})\s*(?:[:,]|\b{_THEN}\b)(?:\s*(?:[:,]|\b{_THEN}\b))*(.+)"
)
_EXACTLY = re.compile(rf"(?i)(\s*{IF}\s+\$?[A-Za-z]\w*\s*)=(\s*-?\d+(?:\.\d+)?\$?\s*[:,])")  # If y = 0:
_HEAD = re.compile(rf"(?i)(\s*)(?:[-*•]\s+)?(?:el)?{IF}\b\s*([^=:,;]*?{_SIGN}[^=:,;]*?)\s*[:,]?\s*")
_OTHERWISE = r"(?:otherwise|else|elsewhere|sonst|sinon|ansonsten|andernfalls)"
_ELSE = re.compile(rf"(?i)\s*(?:and\s+)?{_OTHERWISE}\b(?:\s*(?:[:,]|\b{_THEN}\b))*\s*(.*)")
_APART = re.compile(rf"(?i)\s*[.;,]\s*(?=(?:and\s+)?(?:{_OTHERWISE}|{IF})\b)")
_DERIVES = re.compile(r"\s*\$?\s*(?:\\[dt]?frac\s*\{\s*(?:\\partial|d)|[d∂]\w*\s*/\s*[d∂])")
_EQUATION = re.compile(r"(?<![<>!=])=(?![=>])")
_BOTH = re.compile(r"\s*(?:[,;]|\band\b|\bund\b|\bet\b)\s*(?=[^=,;]*(?<![<>!])=)")
_ADJECTIVE = re.compile(r"(?i)\b(for|if|when|für|pour|si)\s+(positive|negative)[snr]?\s+(\$?\w+\$?)")
_BEHIND = re.compile(rf"(?i)([^=]+(?<![<>!])=(?:(?!\bif\b|\bfor\b|\bwhen\b)[^=])*?)[,\s]+{_OTHERWISE}\s*\.?")
_TRAILING = re.compile(rf"(?i)=[^=]*\s(?:if|for|when|falls|für|si|pour)\s+([^=,;]*?{_SIGN}[^=,;]*?)\s*\.?$")
_OTHER = {"<": ">=", ">": "<=", "≤": ">", "≥": "<", "<=": ">", ">=": "<"} | {rf"\{s}": o for s, o in
          {"le": ">", "leq": ">", "lt": ">=", "ge": "<", "geq": "<", "gt": "<="}.items()}  # fmt: skip


def guarded(text: str) -> str:
    """The text with each condition behind its equations; rows are kept.

    >>> guarded("If z > 0, dL/dz = a; otherwise dL/dz = 0")
    'dL/dz = a if z > 0; dL/dz = 0 if z <= 0'
    """
    rows, last, block = text.split("\n"), "", None
    for i, row in enumerate(rows):
        if len(row) > MAX_PIECE or not row.strip():
            continue
        row = re.sub(r"(?<=\S)[^\S\n]+", " ", row)  # patterns would try each blank of a run
        row = _EXACTLY.sub(r"\1≟\2", row)
        row = _ADJECTIVE.sub(lambda m: f"{m[1]} {m[3]} {'>' if m[2].lower() == 'positive' else '<'} 0", row)
        head, other = _HEAD.fullmatch(row), _ELSE.fullmatch(row)
        indent = len(row) - len(row.lstrip())
        if head or (other and not other[1].strip() and last):
            last = _plain(head[2]) if head else _negated(last)
            block = (indent, i)
            rows[i] = ""
        elif last and (behind := _BEHIND.fullmatch(row)) and _negated(last):
            rows[i] = f"{behind[1]} if {_negated(last)}"
        elif block and (indent > block[0] or i == block[1] + 1) and not _GUARD.fullmatch(row):
            rows[i] = _under(row, last) if last else row
            block = (block[0], i) if _DERIVES.match(row) else block  # and the derivatives below it
        else:
            block = None
            rows[i], last = _clauses(row, last)
            trailing = _TRAILING.search(rows[i])
            last = _plain(trailing[1]) if trailing else last
    return "\n".join(_completed(rows))


def _clauses(row: str, last: str) -> tuple[str, str]:
    """A row with its conditions behind their equations, and the last of them."""
    found: list[str] = []
    for clause in _APART.split(row):
        given, other = _GUARD.fullmatch(clause), _ELSE.fullmatch(clause)
        if given and _EQUATION.search(given[2]):
            last = _plain(given[1])
            found.append(_under(given[2].strip(), last))
        elif other and last and _EQUATION.search(other[1]):
            found.append(_under(other[1].strip(), _negated(last)))
        elif other and found and found[-1].endswith(f" if {last}"):
            found[-1] += f", otherwise {_plain(other[1])}"
        elif found or clause == row:
            return row, last
        else:
            found.append(clause)
    return row[: len(row) - len(row.lstrip())] + "; ".join(found).lstrip(), last


def _under(row: str, guard: str) -> str:
    """Each equation of a row under a condition."""
    lead = row[: len(row) - len(row.lstrip())]
    equations = _BOTH.split(re.sub(r"\s#.*", "", row).replace("$", "").strip().rstrip(" .;"))
    if not guard or not all(_EQUATION.search(e) for e in equations):
        return row
    return lead + "; ".join(f"{e.strip().rstrip('.')} if {guard}" for e in equations)


def _plain(guard: str) -> str:
    return guard.replace("$", "").strip(" .()")


def _negated(guard: str) -> str:
    """The opposite of one comparison; "" of several."""
    signs = re.findall(_SIGN, guard)
    other = guard.replace(signs[0], f" {_OTHER[signs[0]]} ") if len(signs) == 1 and signs[0] in _OTHER else ""
    return " ".join(other.split())


_VALUE = re.compile(r"(\s*)([A-Za-z]\w*)\s*=\s*(.+?) if (.+)")


def _completed(rows: list[str]) -> list[str]:
    """if z > 0: a = z, else: a = 0: what a name is, in either case, in its first line."""
    for i, row in enumerate(rows):
        first = _VALUE.fullmatch(row)
        if first and not re.match(r"d\w", first[2]) and "otherwise" not in row:
            for later in rows[i + 1 : i + 4]:
                other = _VALUE.fullmatch(later)
                if other and other[2] == first[2] and other[4] == _negated(first[4]):
                    rows[i] = f"{row} otherwise {other[3]}"
    return rows
