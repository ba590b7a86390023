"""One side of an equation as a formula: boxes, remarks and labels taken off; nothing else may be left over."""

import re

from jaxbackprop.grading.arrays import is_array
from jaxbackprop.grading.expression import Expr
from jaxbackprop.grading.grammar import MAX_PIECE, Unread, parse
from jaxbackprop.grading.notation import is_formula, plain
from jaxbackprop.grading.vocabulary import Vocabulary
from jaxbackprop.grading.words import STOP

WORD = re.compile(
    r"(?<![A-Za-z0-9_À-ɏͰ-Ͽ⟨⨍∂:])[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ']*[A-Za-zÀ-ɏ](?:_\w+|\d+)?(?![A-Za-z0-9_À-ɏ⟩:])|[^\x00-\u024f\u0300-\u03ff\u2000-\u2fff⨍∂]{2,}"
)
PLAIN_WORDS = re.compile(
    r"(?i)\b(?:because|since|as|where|which|due|by|from|using|via|follows|here|note|this|thus|so|see|is|are|the|a|an|of|with|per|to|in|on"
    r"|for|at|we|it|my|chain|rule|mistake|wrong|right|again|same|not|no|and|i|given|again|upstream|local|times|only|case"
    r"|weil|da|denn|nach|aus|mit|der|die|das|ist|wegen|durch|von|kettenregel|also|hier|siehe|folgt|und|ein|eine|im|für|bei|lautet|lauten"
    r"|car|par|puisque|avec|selon|d'après|le|la|les|est|on|règle|chaîne|de|du|des|donc|voir|ici|pour|dans|et|un|une)\b"
)
_CONNECTIVE = re.compile(
    r"(?i)(?:because|since|as|where|which|due|by|from|using|via|follows|here|note|this|thus|so|see|is|are|with|weil|da|denn|nach|aus|mit"
    r"|wegen|durch|laut|siehe|car|par|puisque|avec|selon|d'après|voir|où|wobei)\b"
)
_ASKED = re.compile(r"\s(?:right|ok|okay|correct|yes|no|oder|stimmt|vrai|verdad)\s*\?+$")
_MATHS = re.compile(r"[*+/^@⊙∂{}\[\]\\Σ⨍=<>]|\d")

# J(w, b) = …: a value, with what it is a function of
_ARGUMENTS = re.compile(
    r"^(?:([A-Za-z]|[Ll]oss|[Cc]ost)\s*\(\s*[\w⟨⟩:]+(?:\s*,\s*[\w⟨⟩:]+)+\s*\)|([LJECℓ](?:tilde|hat|bar|_\w+)?|[Ll]oss|[Cc]ost)\s*\(\s*[\w⟨⟩:]+\s*\))$"
)


def side_of(raw: str, known: Vocabulary, first: bool = False, last: bool = True, boxed: bool = False) -> Expr | Unread:
    """One side: boxes, remarks and labels taken off, then parsed; nothing else may be left over."""
    if len(raw) > 4 * MAX_PIECE:
        return Unread(f"one side of the equation has {len(raw):,} characters; at most {MAX_PIECE:,} are read")
    if is_array(raw) and not first:
        return Unread(f"numbers: {' '.join(raw.split())[:60]}")  # [1 2] is no product
    if last:
        raw = re.split(r"\s(?:--+>?|<-+|←|[—–](?=\s*[A-Za-zÀ-ɏ]{2,})|∴|✓|✗|!!+|\?\?+)(?=\s|$)", raw, maxsplit=1)[0]
        raw = _without_remark(raw, known)
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
    text = _ASKED.sub("", text) if last else text
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


def _without_remark(raw: str, known: Vocabulary) -> str:
    """Drop words in brackets at the end, (loss) or (outer product), unless the text has them for names."""
    remark = re.search(r"(?<=[\w)\]}'²‖|ᵀ$])\s+\(([A-Za-zÀ-ɏ -]{3,40})\)\s*$", raw)
    words = re.split(r"[\s-]+", remark[1].strip(" -")) if remark else []
    said = all(len(w) > 2 or w.lower() in STOP for w in words) and not {*words} & {*known.words, *known.letters}
    return raw[: remark.start()] if remark and said else raw


def _without_brackets(text: str, known: Vocabulary) -> str | Unread:
    """Drop remarks in brackets: words, without any operation."""
    for start, end in reversed(_brackets(text)):
        inside = text[start + 1 : end]
        words = foreign(inside, known)
        if not words or re.search(
            r"[\w⨍']$", text[:start].rstrip(" ") if text[start] == "(" and start and text[start - 1] != " " else ""
        ):
            continue
        if re.search(r"[*+^@⊙∂\\Σ⨍=<>]", inside) and not PLAIN_WORDS.search(inside):
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
    if first:  # loss L = …, squared error E = …
        named = re.fullmatch(r"((?:[A-Za-zÀ-ɏ-]{2,}\s+)+)(∂?\s*[A-Za-zͰ-Ͽℓ]\S*(?:\s*/\s*∂\S+)?)", text.strip())
        heads = {*known.words, *known.functions} | {
            w for w in (named[1].split() if named else []) if w in ("diag", "vec", "sum")
        }
        words = named[1].split() if named else []
        said = all(len(w) > 2 or w.lower() in STOP for w in words)
        text = named[2] if named and said and not {*words} & heads else text
    words = foreign(text, known)
    if not words:
        return text
    called = next((m for m in words if text[: m.start()].endswith(".") and text[m.end() :].startswith("(")), None)
    if called is not None:  # h.foo(w), and no remark
        return Unread(f"cannot read {text[called.start() :][:30]!r}")
    if first:
        before, after = text[: words[-1].start()], text[words[-1].end() :]
        if _MATHS.search(re.sub(r"\b\w\d*\b|\d", "", before)):
            return Unread(f"cannot read {before.strip()[:30]!r}")
        return (
            re.sub(r"^\s*(?:\d+|\([\w.]+\))\s*[:.)]?\s*(?=[A-Za-z∂])", "", after)
            if after.strip()
            else Unread(f"cannot read {text[:40]!r}: words, no formula")
        )
    if last:
        rest = text[words[0].start() :]
        spelled = re.findall(r"[A-Za-zÀ-ɏ']+", rest)
        symbols = _MATHS.search(re.sub(r"\b[A-Za-z]+\d+\b|\(?\b\d+\b\)?", "", rest))
        if _CONNECTIVE.match(rest) or (
            (not symbols and (len(spelled) > 1 and PLAIN_WORDS.search(rest))) or (not symbols and len(spelled) > 2)
        ):
            return text[: words[0].start()]
        return Unread(f"cannot read {rest[:30]!r}")
    return Unread(f"cannot read {text[words[0].start() :][:30]!r}")


def foreign(text: str, known: Vocabulary) -> list[re.Match]:
    """The words of a side that belong to no formula."""
    return [m for m in WORD.finditer(text) if not is_formula(m[0], known)]


def _unboxed(text: str) -> str:
    """Drop a bracket that has no partner: half of a box around a whole equation."""
    text = text.strip()
    while text.startswith("[") and text.count("[") > text.count("]"):
        text = text[1:].strip()
    while text.endswith("]") and text.count("]") > text.count("["):
        text = text[:-1].strip()
    return text
