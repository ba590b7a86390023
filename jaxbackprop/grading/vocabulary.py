"""Which letters of a text are names, which functions, and which index or count.

What a run of letters is, w x or a name `wx`, only the whole text can say: `Vocabulary` collects the words that stand on
the left of an equation or in a derivative, the letters that are functions, and those whose superscripts count layers.
"""

import re
from typing import NamedTuple

from jaxbackprop.grading.characters import flat, scripts
from jaxbackprop.grading.counters import counting
from jaxbackprop.grading.grammar import LETTER, NAME, WORD
from jaxbackprop.grading.words import CALLED, ELEMENTWISE, GENERIC, INDEX, KEYWORDS, STOP, WORDS


class Vocabulary(NamedTuple):
    """What a text's letters are.

    Attributes:
        words: names of several letters.
        letters: names of one letter, with their digits and without.
        functions: letters that are functions.
        layered: names whose superscripts count layers: z^1, a^2.
        bare: names that stand on the left of an equation.
        indices: letters that index; in w_n the n does not, where the text has a value n, nor the i in W_i beside a gate i_t.
        counters: letters that count layers or steps: the l of z^l.
        squares: names whose square is a name: the σ of σ² = 1/n Σ (x_i − μ)².
        deltas: in δh the letter says whose error it is.
        bars: ȳ is the derivative by y.
        entrywise: in code with matrices in it a * b goes entry by entry.
    """

    words: frozenset[str] = frozenset()
    letters: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    layered: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    indices: str = INDEX
    counters: frozenset[str] = frozenset()
    squares: frozenset[str] = frozenset()
    deltas: bool = False
    bars: bool = False
    entrywise: bool = False


NOTHING = Vocabulary()
_LEFT = re.compile(
    r"(?:^|[\n$&,;|:(\[{]|\\quad|\\\\|\bso\b|\band\b)[^\S\n]*([A-Za-zͰ-Ͽ][A-Za-z0-9Ͱ-Ͽ_]*)\s*(?:⟨[a-z]+⟩)?\s*(?:\[[^\]=]*\]\s*)?(?::=|[-+*/]=|={1,2}|\|)(?!=)"
)
_QUOTIENT = re.compile(rf"[d∂]²?\s*({NAME})\s*/\s*[d∂]\s*({NAME})")
IDENTIFIER = re.compile(WORD)
_HAS_MATRICES = re.compile(
    r"@|\.dot\(|\bnp\.(?:dot|matmul|sum|mean)|\.T\b|\.mm\(|axis\s*=|keepdim|\.sum\(\d|torch\.sum|\.(?:mean|max|std|var)\("
)
_IS_CODE = re.compile(r"@|\b(?:j?np|torch)\.|\*\*|\.T\b|\.dot\(|[-+*/]=")
SINGLE = re.compile(rf"[{LETTER}]\d*(?:_[A-Za-z0-9]+)*")


def vocabulary(text: str) -> Vocabulary:
    """Collect what the letters of a text are.

    >>> known = vocabulary("net_h1 = w1 * i1; pred = σ(net_h1); z^1 = w^1 x")
    >>> sorted(known.words), sorted(known.layered)
    (['net_h1', 'pred'], ['w', 'z'])
    """
    counters = counting(scripts(text))
    index = _index(text, "t" in counters)
    lines = "\n".join(flat(line, index, counters) for line in text.split("\n"))
    left = {m[1] for m in _LEFT.finditer(lines)}
    used = {m[0] for m in IDENTIFIER.finditer(lines)}
    words, layered = _words_of(text, lines, left, used), _layered(text, lines, counters)
    functions, bare = _functions_of(lines, left)
    deltas = bool(re.search(r"(?m)(?:^|[$&,;(|])\s*δ\s?[A-Za-z]\w*(?:⟨[a-z]+⟩)?\s*=", lines)) and not re.search(
        r"δ[\d_⟨]", lines
    )
    words -= {w for w in words if deltas and w[0] == "δ"}
    barred = {w for w in left if w.endswith("bar") and w[:-3] in used}
    bars = len(barred) > 1 and not re.search(r"bar(?:⟨[a-z]+⟩)?\s*=\s*(?:[({\s]*1[)\s]*/\s*[({\s]*[nNmM]|mean)", lines)
    words -= barred if bars else set()
    return Vocabulary(
        frozenset(words),
        frozenset(v for v in used if SINGLE.fullmatch(v)),
        frozenset(functions),
        frozenset(layered),
        frozenset(bare),
        index,
        counters,
        frozenset({a or b for a, b in _SQUARE.findall(lines)} - layered),
        deltas,
        bars,
        _HAS_MATRICES.search(text) is not None and not _QUOTIENT.search(lines),
    )


def _words_of(text: str, lines: str, left: set[str], used: set[str]) -> set[str]:
    """The names of several letters: on a left side, on top of a derivative, between operators of code."""
    quotients = [(_base(a), _base(b)) for a, b in _QUOTIENT.findall(lines)]
    tops = {w for pair in quotients for w in pair}
    words = {w for w in left | tops if _is_word(w)} | ({"e"} & left) - {"axis", "dim", "keepdims", "dtype"}
    if _IS_CODE.search(text):  # in code a word between operators is a name
        words |= {w for w in re.findall(r"[-+*/@(]\s*([A-Za-z]\w+)\s*(?=[-+*/@)])", lines) if _is_word(w)}
    words |= {w for w in _code_names(text) if _is_word(w) or w in CALLED or re.fullmatch(r"d[a-z]{2}", w)}
    return {w for w in words if not _of_derivative(w, used | words)}


def _layered(text: str, lines: str, counters: frozenset[str]) -> set[str]:
    """The letters whose superscripts count layers."""
    layered = set(re.findall(r"([A-Za-zδ])\s*\^\s*1(?![\d./])", lines))
    layered |= set(re.findall(r"(?m)(?:^|[,;$&|]|\bd|∂)\s*([A-Za-zδ])\s*\^\s*\d\s*(?:=|\)?\s*/|\)?$|,)", lines))
    layered |= set(re.findall(r"/\s*\(?\s*[d∂]\s*([A-Za-zδ])\s*\^\s*\d", lines))
    if counters & {"l", "L"}:  # beside a^l, a^2 is no square
        layered |= set(re.findall(r"([A-Za-zδ])\s*\^\s*\{?\s*[lL](?![A-Za-z])", scripts(text).replace(r"\delta", "δ")))
    return layered


def _functions_of(lines: str, left: set[str]) -> tuple[set[str], set[str]]:
    """The letters that are functions, and those that stand on a left side."""
    primed = set(re.findall(r"(?<![A-Za-zͰ-Ͽ_])([A-Za-zͰ-Ͽ]_?\d*)'+_?\d*\s*\(", lines))
    taken = set(re.findall(r"(?:=|[+\-*⊙(])\s*([hs])\s*\(\s*[A-Za-z]\d*(?:⟨[a-z]+⟩)?\s*\)", lines))
    bare = {w for w in left if len(w.rstrip("0123456789")) == 1} - primed
    bare |= {x for x in "fgφψ" if re.search(_VALUE.format(x=x), lines)}
    functions = primed | (taken - bare)
    functions |= set(re.findall(r"(?:^|[\n$&,;:])\s*([fghsφψσ]_?\d*)\s*\(\s*[A-Za-z]\w*\s*\)\s*:?=", lines))
    heads = set(
        re.findall(r"(?:^|[\n$&,;:])\s*([a-zφψ])\s?\(\s*[A-Za-z]\w*(?:⟨[a-z]+⟩)?(?:\s*,\s*\w+)*\s*\)\s*:?=", lines)
    )  # q(x) = …
    plainly = re.sub(r"∇_?\(?⟨?\w*⟩?\)?\s*[A-Za-zφψ](?!\w)", "", lines)  # ∇_W L is no L alone
    functions |= {x for x in heads if not re.search(rf"(?<![A-Za-z_∂∇]){x}(?!['\w⟨]|\s?\()", plainly)}
    opaque = {
        x for x in _OPAQUE.findall(lines) if not re.search(rf"(?<![A-Za-zͰ-Ͽ_∂])(?<!d){x}(?![\w'⟨]|\s?\()", plainly)
    }
    normal = {"Φ"} if re.search(r"(?<![\w∂])Φ\s*\(", lines) else set()
    return (functions | (opaque | normal) - left) - bare, bare


# g v / ‖v‖, (1 − p)^g and ∂L/∂g: a value, whatever bracket follows it elsewhere
_VALUE = r"\^\s*\(?\s*{x}(?![\w(])|(?:=|[-+*/⊙])\s*{x}\s+[A-Za-z∥|]|[d∂]L?\s*/\s*[d∂]{x}(?![\w'(])"
_SQUARE = re.compile(
    rf"(?m)(?:^|[$&,;(|]|\\\\)\s*({NAME})\s*\^\s*(?:2|\(2\))\s*:?=(?!=)|[d∂]\s*{NAME}\s*/\s*\(?\s*[d∂]\s*({NAME})\s*\^\s*\(?2\)?(?!\d)"
)
_OPAQUE = re.compile(
    r"(?<![A-Za-zͰ-Ͽ_])([A-GI-Z])\(\s*[A-Za-zͰ-Ͽ]\d*(?:⟨[a-z]+⟩)?\s*\)"
)  # F(x): a function that is not given
_STATEMENT = re.compile(r"[\w.,:+\-*/@%()\[\]<>=!'\" ]+")
_CODE_NAME = re.compile(r"(?<![\w.'\"])([A-Za-z_]\w*)(?!\w*\s*\(|\w*\s*=[^=].*\)|\.[a-z]+\()")
LOCAL = re.compile(r"[d∂]([A-Za-z]\w*?)_?[d∂]_?([A-Za-z]\w*)")  # dadz, da_dz
_DERIVATIVE = re.compile(r"(?:d_?|D_|grad_?|gradient_|nabla_)([A-Za-z]\w*)|([A-Za-z]\w*?)_grad(?:ient)?")


def _code_names(text: str) -> set[str]:
    """The names in lines of NumPy that hold no two words side by side: Why, syn0, rstd."""
    found: set[str] = set()
    if not _IS_CODE.search(text):
        return found
    for line in text.split("\n"):
        line = re.split(r"\s#|^#|//", line)[0].strip(" ;`")
        plain_words = re.search(r"[A-Za-z_]\w*\s+(?!(?:if|else|and|or|not|for|in)\b)[A-Za-z_]", line)
        if "=" in line and _STATEMENT.fullmatch(line) and not plain_words:
            found |= {*_CODE_NAME.findall(line)} - {"np", "True", "False", "None"}
    return {w for w in found if w not in STOP or re.search(rf"\bd{w}\b|[+@]\s*{w}\s*$", text, re.MULTILINE)}  # by


def _of_derivative(word: str, used: set[str]) -> str:
    """The name that a word says the derivative by: grad_w, dYhat, w_grad; "" where it says none."""
    quotient = LOCAL.fullmatch(word)
    if quotient and {*quotient.groups()} <= used:
        return word
    match = _DERIVATIVE.fullmatch(word)
    inner = next((g for g in match.groups() if g), "") if match else ""
    return inner if {inner, inner.swapcase()} & used or inner.lower() in WORDS else ""


def _index(text: str, steps: bool) -> str:
    """i, j, k, l; another letter where a sum runs over it, or where it stands beside or in the place of one of these."""

    def is_gate(x: str) -> bool:
        return steps and re.search(rf"(?<![A-Za-z_^{{\\]){x}\s*(?:_\s*[{{(]?|\^\s*\{{?\s*[(<])\s*t", text) is not None

    def indexes(x: str) -> bool:
        summed = re.search(rf"(?:\\sum|[Σ∑]|\bsum)\s*_\s*\{{?[a-z,\s]*{x}", text)
        beside = re.search(rf"_\s*\{{?\s*(?:[ijkl],?\s*{x}|{x},?\s*[ijklnm])(?![A-Za-z])", text)
        bases = set(re.findall(rf"([A-Za-z])_\{{?{x}(?![A-Za-z])", text))
        replaces = any(re.search(rf"{b}_\{{?[ijkl](?![A-Za-z])", text) for b in bases)
        replaces = replaces or any(re.search(rf"(?<!\w){b}\s*=\s*\\?(?:text\{{)?softmax", text) for b in bases)
        value = re.search(rf"(?m)(?:^|[,;$&])\s*{x}\s*=", text)
        return bool(summed or (not value and (beside or replaces)))

    scan = (
        re.search(r"(?m)(?:^|[,;$&.\]]|\band)\s*o(?:_\{?t\}?)?\s*&?=|\(o\s*[-−–]", text) is None
    )  # w_o, and no o of its own
    classes = {*re.findall(r"(?:1\s*[\[({]|\[)\s*[ijkc]\s*={1,2}\s*([ya])\s*[\])}]|δ_\{?[ijk],?\s*([ya])\}?", text)}
    named = {
        x for pair in classes for x in pair if x and re.search(rf"_\{{?{x}(?![A-Za-z])", text)
    }  # the y of -log p_y
    sums = {*re.findall(r"(?:\\sum|[Σ∑])\s*_\s*\{?\s*([a-z])(?![A-Za-z])", text)} - {*INDEX}
    named |= {x for x in sums if re.search(rf"_\{{?[a-z]?{x}(?![A-Za-z])", text)}  # the d of Σ_d w_d x_id
    beside = {b for x in {*"ijkl", *sums} for b in re.findall(rf"([A-Za-z])_\{{?{x}(?![A-Za-z])", text)}
    of_o = re.search(r"(?m)^\W*(?:hat\W*)?[^\W\d]\}?_\{?o\}?\s*=", text) and not re.search(r"_\{?0", text)
    if scan and of_o and any(re.search(rf"(?<![A-Za-z]){b}_\{{?o(?![A-Za-z])", text) for b in beside):
        scan, named = False, named | {"o"}  # the u_o of Σ_w exp(u_w^T v)

    def is_value(x: str) -> bool:
        """The k of k = W_k x, which nothing sums over."""
        formula = re.search(rf"(?<![\w\\{{^]){x}\s*=(?!=)\s*(?!\d|[a-z](?!\w)|\W*$)", text)
        index = re.search(rf"(?:\\sum|[Σ∑]|\bsum)\s*_|[_{{][a-z]?,?[a-z]?{x}[a-z]|_\{{?[a-z],?{x}(?![a-z])", text)
        return bool(formula) and not index

    found = [
        x for x in INDEX if not is_gate(x) and not is_value(x) and (x in "ijkl" or (scan if x == "0" else indexes(x)))
    ]
    return "".join(x for x in (*found, *sorted(named)) if not (steps and x == "t"))


def _base(token: str) -> str:
    return token.partition("⟨")[0]


def _is_word(word: str) -> bool:
    """Whether it can only be a name of several letters."""
    stem = re.sub(r"\d+$", "", word)
    shorthand = (
        stem[0] in "d∂" and len(stem) > 1 and (len(stem) < 4 or stem[1:].split("_")[0] in WORDS or stem[1:4] == "net")
    )
    known = word.lower() in ELEMENTWISE or word in KEYWORDS or GENERIC.fullmatch(word)
    return len(stem) > 1 and not SINGLE.fullmatch(word) and not known and not shorthand
