"""What people word in several ways, in one way: decimal commas, dx, dy = a, b, heads of loops, boxes, conditions in front."""

import re
from typing import NamedTuple

from jaxbackprop.grading.grammar import MAX_PIECE
from jaxbackprop.grading.guards import IF, guarded
from jaxbackprop.grading.words import rewritten, rules

_QUOTIENT = r"[∂d][A-Za-z]?\w*\s*/\s*[∂d]\s*\w+\s*="
_COMMA = r"(?<![\d,.\[(])(-?\d+),(\d+)(?!\d*(?:,\d|[\])]))"
_JOINS = r"(?:and|where|with|so that|so|then|because|since|und|wobei|mit|damit|et|où|avec|donc|if|for|when|y|donde)"
_SIZE = r"(?:\d+|[nmdhkpNMDHKBCT])"
_ACTIVATION = r"\\?(?:tanh|sigmoid|[Ll]ogistic|[Rr]e[Ll][Uu]|softplus|sigma|σ|identity|Sigmoid\w*|Tanh)"
_THE = r"(?:the|a|an|die|der|das|eine?|la|le|une?|el)\s+"


def one_way(text: str) -> str:
    """The text with each of these in the one way that is read on."""
    if re.search(rf"=\s*{_COMMA}", text) and not re.search(r"\d\.\d", text):
        text = re.sub(_COMMA, r"\1.\2", text)
    matlab = re.search(r"\w\s?\.[*^/]", text) and not re.search(r"/\s*[d∂]", text)
    if matlab or re.search(r"\[[-\d.\s]*\d\s*;\s*-?\d[-\d.\s;]*\]", text):  # a1' in MATLAB
        text = re.sub(r"(?<=[\w)])'(?=\s*(?:[-+*;)]|$))", "^T", text, flags=re.MULTILINE)
    for v in {*re.findall(r"(?<![\w\\])([A-Za-z])'(?![\w'(])", text)}:  # Q' of a text that has no Q
        text = text if re.search(rf"(?<![\w\\]){v}(?!['\w])", text) else text.replace(f"{v}'", v)
    for x in "eyi":  # y = a y z = b, in Spanish, of a text that has no y
        if not re.search(rf"(?:^|[^\w]){x}\s*=|[-+*/(=]\s*{x}\b|{x}\s*[-+*/)]|[d∂]{x}\b", text):
            text = re.sub(rf"(?<=\w[ \t]){x}(?=[ \t]+(?:[a-zà-ÿ]{{2,}}[ \t]+){{0,5}}[A-Za-z]\w*[ \t]*=[^=])", ";", text)
    loss = re.search(r"(?m)(?:^|[\s:,;$])([LJECℓl])\s*(?:\([^()]*\)\s*)?=", text)
    text = _POSITIVE.sub(rf"\1 {loss[1]} > 0", text) if loss else text
    if _SIGMA.search(text):
        text = re.sub(r"(?:Σ|\\Sigma(?![A-Za-z]))(?!\s*_)", MATRIX_SIGMA, text)
    return _with_equal_indices(guarded(_with_activation(_with_partials(rewritten(text, _WORDING)))))


MATRIX_SIGMA = "Ϲ"  # another character for it: a Σ is a sum
_SIGMA = re.compile(
    r"(?:Σ|\\Sigma)\$?\s*(?:\^\s*\{?\s*-|(?:is |be |ist |)(?:symmetri|symétri|simétri))"
    r"|symmetri\w*\s+(?:matrix\s+)?\$?(?:Σ|\\Sigma)"
)
_POSITIVE = re.compile(
    rf"(?i)\b({IF})\s+(?:(?:the\s+)?(?:loss|cost|error|hinge)(?:\s+is)?\s+(?:positive|nonzero|> ?0)"
    r"|(?:[\w ]{0,20}\s)?active)(?![.\d])"
)


def _with_partials(text: str) -> str:
    """f_x of f(x, y) = … as ∂f/∂x."""
    for f, inside in re.findall(r"(?m)^\W*([A-Za-z])\(\s*([a-z](?:\s*,\s*[a-z])+)\s*\)\s*=", text):
        for x in re.findall(r"[a-z]", inside):
            text = re.sub(rf"(?<![\w\\]){f}_(?:{x}|\{{{x}\}})(?![\w(])", f"∂{f}/∂{x}", text)
            for y in re.findall(r"[a-z]", inside):
                text = re.sub(rf"(?<![\w\\]){f}_(?:{x}{y}|\{{{x}{y}\}})(?![\w(])", f"∂²{f}/∂{x}∂{y}", text)
    return text


_NAMED = {
    "hyperbolic tangent": "tanh",
    "tangens hyperbolicus": "tanh",
    "logisti": "sigmoid",
    "sigmoïd": "sigmoid",
    "rectified linear": "relu",
}
_NAME = re.compile(
    r"(?i)(?<![\\\w.])(sigmo[iï]d|logisti|tanh|hyperbolic tangent|tangens hyperbolicus|relu|rectified linear|softplus)[a-zé]*"
    r"(?![\w.]|\s*[(^_²'])"
)
_GENERIC = re.compile(r"(?<![\w\\'])([fgφϕψ]|\\(?:phi|varphi|psi))\s*\(")


def _with_activation(text: str) -> str:
    """The hidden layer uses tanh: h = f(z), with f(z) = tanh(z) in that line; where one activation is named, and one used."""
    words = [(m, _NAMED.get(m[1].lower(), m[1].lower())) for m in _NAME.finditer(text)]
    used = {m[1] for m in _GENERIC.finditer(text)}
    if len({name for _, name in words}) != 1 or len(used) != 1:
        return text
    (f,), (first, name) = used, words[0]
    if re.search(rf"{re.escape(f)}\s*(?:\(\s*[^\W\d]\w*\s*\)\s*)?:?=", text):  # it has a formula
        return text
    end = text.find("\n", first.end())
    end = len(text) if end < 0 else end
    return f"{text[:end].rstrip(' .')}; {f}(z) = {name}(z){text[end:]}"


def _symmetric(match: re.Match) -> str:
    matrix = match[1] or match[2]
    return f"; {matrix} = {matrix}^T;"


_EQUAL_INDICES = re.compile(  # if i = j, (i = j), & i = j, i = j:
    rf"(?im)((?:\b{IF}|\\(?:text|mbox|textrm|mathrm)\{{[^{{}}]*{IF}\s*\}}|[,(&]|\\q?quad|^(?:[ \t]*[-*])*)[ \t]*(?:\$[ \t]*)?)"
    r"([i-nc])\s*&?={1,2}\s*([i-nc])(?=\s*(?:$|[$,;:).&\\}]|\b[a-z]{2}))"
)


def _with_equal_indices(text: str) -> str:
    """If i = j, of indices, as i ≟ j: it is no equation."""
    indices = {*re.findall(r"_\{?[a-z]?,?([a-z])(?![a-z])", text), *re.findall(r"[_{]([a-z])[a-z]?\}", text)}

    def condition(m: re.Match) -> str:
        return f"{m[1]}{m[2]} ≟ {m[3]}" if {m[2], m[3]} <= indices and m[2] != m[3] else m[0]

    return _EQUAL_INDICES.sub(condition, text)


class Loop(NamedTuple):
    """A loop over examples in code: its letter, the names that it takes from lists, and its rows."""

    letter: str
    taken: frozenset[str]
    rows: range


_NAMES = r"[^\W\d]\w*(?:\s*,\s*[^\W\d]\w*)*"
_LOOP = re.compile(
    r"([ \t]*)for\s+(?:([ijkn])\s+in\s+range"
    rf"|(?:[ijkn]\s*,\s*)?\(?({_NAMES})\)?\s+in\s+(?:enumerate\()?zip)\(.*:\s*(?:#.*)?"
)


def loops(text: str) -> list[Loop]:
    r"""The loops over examples: for i in range(m), for x, y in zip(X, Y).

    >>> [(loop.letter, sorted(loop.taken), loop.rows) for loop in loops("for x, y in zip(X, Y):\n    z = w * x\nJ = 0")]
    [('i', ['x', 'y'], range(2, 3))]
    """
    rows = text.split("\n")
    found = []
    for at, row in enumerate(rows, 1):
        head = _LOOP.fullmatch(row)
        if head:
            end = at
            while end < len(rows) and (not rows[end].strip() or re.match(rf"{head[1]}[ \t]+", rows[end])):
                end += 1
            taken = frozenset(v.strip() for v in (head[3] or "").split(",") if v.strip())
            found.append(Loop(head[2] or "i", taken, range(at + 1, end + 1)))
    return found


def _one_by_one(match: re.Match) -> str:
    """dx, dy = dz * y, dz * x as dx = dz * y; dy = dz * x."""
    names_ = [v.strip() for v in match[2].split(",")]
    values = [v for _, v in split(match[3], re.compile(","))]
    several = "=" in re.sub(r"\([^()]*\)", "", match[3])  # x, z = w x, L = z^2
    if several or len(names_) != len(values) or not all(re.search(r"\w", v) for v in values):
        return match[0]
    return match[1] + "; ".join(f"{v} = {value.strip()}" for v, value in zip(names_, values, strict=True))


_WORDING = rules(
    ("dx, dy = a, b", r"(?m)^([ \t]*)([^\W\d][\w.]*(?:[ \t]*,[ \t]*[^\W\d][\w.]*)+)[ \t]*=(?!=)[ \t]*([^\n]+)$", _one_by_one),
    ("def loss(w): return …",
     r"(def\s+\w*(?:loss|cost)\w*\([^)\n]*\):[^\n]*\n(?:(?!def |[ \t]*return)[^\n]*\n)*?[ \t]*)return\s+(?=\S)", r"\1loss = "),
    ("for t = T, …, 1:", r"(?m)^([ \t]*)[Ff]or\s+\w+\s*(?:in\b|=[^\n:]*(?:…|\.\.|,|\bto\b))[^\n:]*:", r"\1"),
    ("w <- w - lr * dw", r"(?m)^([ \t]*[^\W\d]\w*[ \t]*)<-(?=[ \t]*[^\n=]*$)", r"\1←"),
    ("on a, in French", r"\bOn a\b(?!\s*=)", "On  "),
    (r"\text{ where }", rf"\\(?:text|mbox|textrm)\{{\s*,?\s*({_JOINS})\s*\}}", r" \1 "),
    ("A = B. C = D", r"(?:(?<=[^\s.\d=])|(?<=[A-Za-zͰ-Ͽ]\d))\.(?=[ \t]+[^\n.;=]+=)", ";"),
    ("of (n x 1)", rf"(?m)[ \t]+[([][ \t]*{_SIZE}[ \t]*(?:[x×]|\\times)[ \t]*{_SIZE}[ \t]*[)\]](?=[ \t]*$)", ""),
    ("w* = …", r"(?m)^(\W*[^\W\d])\*(?=[ \t]*=)", r"\1"),
    ("row by row", r"(?<!\s)\s+\(?(?:row|column|element|entry|component)-?wise\)?(?![\w-])", ""),
    ("a comment that is an equation", r"(?m)^([ \t]*)(?:#+|//|%+)[ \t]+(?=[^\n=]{1,60}=)", r"\1"),
    ("**Forward:**", r"\*\*([A-Za-zÀ-ɏ ]+:?)\*\*:?", r"\1"),
    ("⟨w, x⟩", r"(?:⟨|\\langle\b)\s*([^⟨⟩,\n]{1,40}),\s*([^⟨⟩,\n]{1,40}?)\s*(?:⟩|\\rangle\b)", r"((\1)^T (\2))"),
    ("dh where z > 0, 0 elsewhere", r"(?<![.\w])where\s+(?=[^\n(),;=]*[<>≤≥])", "if "),
    ("if z > 0, and 0 where", r"(?<=[\w)]),?\s+and\s+(?=[^\n=,;]{1,30}\s(?:if|for|when|otherwise|else|elsewhere)\b)", ", "),
    ("with g the sigmoid", rf"\b(?:with|where|mit|avec)\s+([fgφϕψ])\s+(?:{_THE})({_ACTIVATION})(?![\w(])", r"; \1(z) = \2(z);"),
    ("φ = tanh", rf"(?<![\w(])([fgφϕψσ]|\\(?:phi|varphi|psi))\s*=\s*({_ACTIVATION})(?=\s*(?:$|[.,;$\n]))", r"\1(z) = \2(z)"),
    ("f is the sigmoid",
     rf"(?<![\w(])([fgφϕψ]|\\(?:phi|varphi|psi))\$?\s+(?:is|ist|est|es|being|denotes|be)\s+(?:{_THE})?(?:usual\s+|logistic\s+)?"
     rf"({_ACTIVATION})(?![\w(])",
     r"; \1(z) = \2(z);"),
    ("Exercise 1. f(x) = …", r"(?m)^[ \t]*(?:Exercise|Problem|Part|Question|Example|Aufgabe|Teil|Beispiel|Exercice|Ejercicio)"
     r"\s+\w{1,3}\s*[.:)]\s*", ""),
    ("e^{-yŷ}", r"(?<![A-Za-z\\])([A-Za-z])(?=[ŷẑŵŝĥȳ](?![A-Za-z]))", r"\1 "),
    ("f sigmoid", rf"(?<=,)\s*([fgφϕψ])\s+({_ACTIVATION})(?=\s*(?:$|[.,;\n]))", r" \1(z) = \2(z)"),
    ("dL/dx = …   dL/dy = …, or joined by a word",
     rf"(?<=\S)(?:[ \t]{{3,}}|[ \t]+(?:och|og|en|while|but|samt|sowie|&|y|e|i)[ \t]+)(?={_QUOTIENT})", "; "),
    ("A symmetric",
     r"[(,;]?[ \t]*(?:(?:[Ii]f|[Ff]or|[Ww]ith|[Ww]here|[Ww]hen|[Ll]et|[Ff]alls|[Ff]ür|[Mm]it|[Ss]i|[Aa]vec)[ \t]+)?"
     r"(?:\$?([A-ZΓΔΘΛΦΨΩϹ]|\\Lambda)\$?[ \t]+(?:is |be |ist |est |es |)(?:symmetric|symmetrisch|symétrique|simétrica)\b"
     r"|(?:a |the )?(?:symmetric|symmetrische[sn]?)[ \t]+(?:matrix[ \t]+|Matrix[ \t]+)?\$?([A-ZΓΔΘΛΦΨΩϹ])(?![\w(])\$?)[),.:]?",
     _symmetric),
)  # fmt: skip


def unboxed_text(text: str) -> str:
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


_DELTA = re.compile(r"\[\s*[a-z]\s*=\s*[a-z]\s*\]")


def split(raw: str, pattern: re.Pattern, keep_brackets: bool = False) -> list[tuple[str, str]]:
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
