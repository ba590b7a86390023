# ruff: noqa: SIM905  (words, one after the other, are read more easily than as a list)
"""LaTeX, Unicode, NumPy and plain text into one notation, and which letters of a text are names.

    text --vocabulary()--> Vocabulary          raw formula --plain()--> the notation of `grammar`

What a run of letters is, w x or a name `wx`, only the whole text can say: `Vocabulary` collects the words that stand on
the left of an equation or in a derivative, the letters that are functions, and those whose superscripts count layers.
"""

import re
import unicodedata
from collections.abc import Callable, Collection
from typing import NamedTuple

from jaxbackprop.grading.counters import coded, counting
from jaxbackprop.grading.grammar import LETTER, MAX_DEPTH, NAME, WORD

INDEX = "ijklmnpqrsct0"  # letters that index; 0: an o below is a 0, as a scan reads it
ELEMENTWISE = frozenset(
    "leaky_relu leakyrelu relu tanh sigmoid logistic expit softplus silu swish gelu_tanh gelu elu exp log ln sin cos sqrt"
    " abs sign step heaviside identity linear softmax log_softmax logsumexp norm tr trace diag vec outer kron dot matmul"
    " where max min maximum minimum sum npsum mean std var square power pow transpose multiply ce pick".split()
)
GENERIC = re.compile(r"(?:[gfφψϕσ]|act)_?\d*")
CALLED = frozenset("var std mean norm max min sum".split())  # in code, where they are not called, names
WORDS = frozenset(
    "yhat target targets pred preds prediction loss cost bias mask logits logit net out inp input output total error"
    " err score scores prob probs hidden label labels grad eps lr probabilities act pre post".split()
)
STOP = frozenset(
    "on in is of to at by as an we so if it be do no or us my up the and are not for you its was has can see then this that with"
    " from also here rule chain due per du de la le et un im da zu es das der die den ist mit von les des une"
    " par car est pas".split()
)  # words, however their letters are used
KEYWORDS = frozenset("if for when and otherwise else elsewhere T".split())
GREEK: dict[str, str] = dict(
    zip(
        "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi psi omega"
        " Gamma Delta Theta Lambda Phi Psi Omega".split(),
        "αβγδεεζηθκλμνξρστφφψωΓΔΘΛΦΨΩ",
        strict=True,
    )
)
LOSSES = ("L", "J", "E", "C", "ℓ", "l", "loss", "cost", "Loss", "Cost", "E_total", "error", "Error")


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
    r"(?:^|[\n$&,;|:(\[{]|\\quad|\\\\|\bso\b|\band\b)\s*([A-Za-zͰ-Ͽ][A-Za-z0-9Ͱ-Ͽ_]*)\s*(?:⟨[a-z]+⟩)?\s*(?:\[[^\]=]*\]\s*)?(?::=|[-+*/]=|={1,2}|\|)(?!=)"
)
_QUOTIENT = re.compile(rf"[d∂]²?\s*({NAME})\s*/\s*[d∂]\s*({NAME})")
_IDENTIFIER = re.compile(WORD)
_HAS_MATRICES = re.compile(r"@|\.dot\(|\bnp\.(?:dot|matmul|sum|mean)|\.T\b|\.mm\(|axis\s*=|keepdim|\.sum\(\d")
_IS_CODE = re.compile(r"@|\b(?:j?np|torch)\.|\*\*|\.T\b|\.dot\(|[-+*/]=")
_SINGLE = re.compile(rf"[{LETTER}]\d*(?:_[A-Za-z0-9]+)*")


def vocabulary(text: str) -> Vocabulary:
    """Collect what the letters of a text are.

    >>> known = vocabulary("net_h1 = w1 * i1; pred = σ(net_h1); z^1 = w^1 x")
    >>> sorted(known.words), sorted(known.layered)
    (['net_h1', 'pred'], ['w', 'z'])
    """
    counters = counting(_scripts(text))
    index = _index(text, "t" in counters)
    flat = "\n".join(_flat(line, index, counters) for line in text.split("\n"))
    left = {m[1] for m in _LEFT.finditer(flat)}
    quotients = [(_base(a), _base(b)) for a, b in _QUOTIENT.findall(flat)]
    tops = {w for pair in quotients for w in pair}
    words = {w for w in left | tops if _is_word(w)} | ({"e"} & left) - {"axis", "dim", "keepdims", "dtype"}
    if _IS_CODE.search(text):  # in code a word between operators is a name
        words |= {w for w in re.findall(r"[-+*/@(]\s*([A-Za-z]\w+)\s*(?=[-+*/@)])", flat) if _is_word(w)}
    used = {m[0] for m in _IDENTIFIER.finditer(flat)}
    words |= {w for w in _code_names(text) if _is_word(w) or w in CALLED or re.fullmatch(r"d[a-z]{2}", w)}
    words = {w for w in words if not _of_derivative(w, used | words)}
    layered = set(re.findall(r"([A-Za-zδ])\s*\^\s*1(?![\d./])", flat))
    layered |= set(re.findall(r"(?m)(?:^|[,;$&|]|\bd|∂)\s*([A-Za-zδ])\s*\^\s*\d\s*(?:=|\)?\s*/|\)?$|,)", flat))
    layered |= set(re.findall(r"/\s*\(?\s*[d∂]\s*([A-Za-zδ])\s*\^\s*\d", flat))
    if counters & {"l", "L"}:  # beside a^l, a^2 is no square
        layered |= set(re.findall(r"([A-Za-zδ])\s*\^\s*\{?\s*[lL](?![A-Za-z])", _scripts(text).replace(r"\delta", "δ")))
    primed = set(re.findall(r"(?<![A-Za-zͰ-Ͽ_])([A-Za-zͰ-Ͽ]_?\d*)'+_?\d*\s*\(", flat))
    taken = set(re.findall(r"(?:=|[+\-*⊙(])\s*([hs])\s*\(\s*[A-Za-z]\d*(?:⟨[a-z]+⟩)?\s*\)", flat))
    bare = {w for w in left if len(w.rstrip("0123456789")) == 1} - primed
    functions = primed | (taken - bare)
    functions |= set(re.findall(r"(?:^|[\n$&,;:])\s*([fghsφψσ]_?\d*)\s*\(\s*[A-Za-z]\w*\s*\)\s*:?=", flat))
    letters = {m[0] for m in _IDENTIFIER.finditer(flat) if _SINGLE.fullmatch(m[0])}
    squares = {a or b for a, b in _SQUARE.findall(flat)} - layered
    deltas = bool(re.search(r"(?m)(?:^|[$&,;(|])\s*δ\s?[A-Za-z]\w*(?:⟨[a-z]+⟩)?\s*=", flat)) and not re.search(
        r"δ[\d_⟨]", flat
    )
    words -= {w for w in words if deltas and w[0] == "δ"}
    barred = {w for w in left if w.endswith("bar") and w[:-3] in used}
    bars = len(barred) > 1 and not re.search(r"bar(?:⟨[a-z]+⟩)?\s*=\s*(?:[({\s]*1[)\s]*/\s*[({\s]*[nNmM]|mean)", flat)
    words -= barred if bars else set()
    opaque = {x for x in _OPAQUE.findall(flat) if not re.search(rf"(?<![A-Za-zͰ-Ͽ_∂])(?<!d){x}(?![\w'⟨]|\s?\()", flat)}
    functions |= opaque - left
    return Vocabulary(
        frozenset(words),
        frozenset(letters),
        frozenset(functions - bare),
        frozenset(layered),
        frozenset(bare),
        index,
        counters,
        frozenset(squares),
        deltas,
        bars,
        _HAS_MATRICES.search(text) is not None and not _QUOTIENT.search(flat),
    )


_SQUARE = re.compile(
    rf"(?m)(?:^|[$&,;(|]|\\\\)\s*({NAME})\s*\^\s*\(?2\)?\s*:?=(?!=)|[d∂]\s*{NAME}\s*/\s*\(?\s*[d∂]\s*({NAME})\s*\^\s*\(?2\)?(?!\d)"
)
_OPAQUE = re.compile(
    r"(?<![A-Za-zͰ-Ͽ_])([A-GI-Z])\(\s*[A-Za-zͰ-Ͽ]\d*(?:⟨[a-z]+⟩)?\s*\)"
)  # F(x): a function that is not given
_STATEMENT = re.compile(r"[\w.,:+\-*/@%()\[\]<>=!'\" ]+")
_CODE_NAME = re.compile(r"(?<![\w.'\"])([A-Za-z_]\w*)(?!\w*\s*\(|\w*\s*=[^=].*\)|\.[a-z]+\()")
_LOCAL = re.compile(r"[d∂]([A-Za-z]\w*?)_?[d∂]_?([A-Za-z]\w*)")  # dadz, da_dz
_DERIVATIVE = re.compile(r"(?:d_?|D_|grad_?|gradient_)([A-Za-z]\w*)|([A-Za-z]\w*?)_grad(?:ient)?")


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
    quotient = _LOCAL.fullmatch(word)
    if quotient and {*quotient.groups()} <= used:
        return word
    match = _DERIVATIVE.fullmatch(word)
    inner = next((g for g in match.groups() if g), "") if match else ""
    return inner if inner in used or inner.lower() in WORDS else ""


def _index(text: str, steps: bool) -> str:
    """i, j, k, l; another letter where a sum runs over it, or where it stands beside or in the place of one of these."""

    def is_gate(x: str) -> bool:
        return steps and re.search(rf"(?<![A-Za-z_^{{\\]){x}\s*(?:_\s*[{{(]?|\^\s*\{{?\s*[(<])\s*t", text) is not None

    def indexes(x: str) -> bool:
        summed = re.search(rf"(?:\\sum|[Σ∑]|\bsum)\s*_\s*\{{?[a-z,\s]*{x}", text)
        beside = re.search(rf"_\s*\{{?\s*(?:[ijkl],?\s*{x}|{x},?\s*[ijklnm])(?![A-Za-z])", text)
        bases = set(re.findall(rf"([A-Za-z])_\{{?{x}(?![A-Za-z])", text))
        replaces = any(re.search(rf"{b}_\{{?[ijkl](?![A-Za-z])", text) for b in bases)
        value = re.search(rf"(?m)(?:^|[,;$&])\s*{x}\s*=", text)
        return bool(summed or (not value and (beside or replaces)))

    scan = (
        re.search(r"(?m)(?:^|[,;$&.\]]|\band)\s*o(?:_\{?t\}?)?\s*&?=|\(o\s*[-−–]", text) is None
    )  # w_o, and no o of its own
    found = [x for x in INDEX if not is_gate(x) and (x in "ijkl" or (scan if x == "0" else indexes(x)))]
    return "".join(x for x in found if not (steps and x == "t"))


def _base(token: str) -> str:
    return token.partition("⟨")[0]


def _is_word(word: str) -> bool:
    """Whether it can only be a name of several letters."""
    stem = re.sub(r"\d+$", "", word)
    shorthand = (
        stem[0] in "d∂" and len(stem) > 1 and (len(stem) < 4 or stem[1:].split("_")[0] in WORDS or stem[1:4] == "net")
    )
    known = word.lower() in ELEMENTWISE or word in KEYWORDS or GENERIC.fullmatch(word)
    return len(stem) > 1 and not _SINGLE.fullmatch(word) and not known and not shorthand


# --- one notation ----------------------------------------------------------------------------------------------------

_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ᵢⱼₖₗₘₙₚₒᵣₛₜ", "0123456789+-ijklmnporst", strict=True))
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾⁺⁻ᵀᵢˡⁱʲᵏᴸ", "0123456789()+-TilijkL", strict=True))
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("·∙⋅×∗•", "*"),
        **dict.fromkeys("∘◦⨀", "⊙"),
        **dict.fromkeys("−–—‒", "-"),
        **dict.fromkeys("∕⁄÷", "/"),
        **dict.fromkeys("≥⩾≧", ">="),
        **dict.fromkeys("≤⩽≦", "<="),
        **dict.fromkeys("′’ʹ‘`´", "'"),
        **dict.fromkeys("𝜕𝛛𝝏", "∂"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2003\u2002\u200b\ufeff\t\r\x00", " "),
        **dict.fromkeys("∑", "Σ"),
        **{
            "≠": "!=",
            "⊤": "^T",
            "½": "(1/2)",
            "¼": "(1/4)",
            "″": "''",
            "𝟙": "1 ",
            "√": " sqrt",
            "ℒ": "L",
            "‖": "∥",
            "ϕ": "φ",
            "ϵ": "ε",
        },
    }
)
_COMMANDS = {
    **dict.fromkeys(("cdot", "times", "ast", "bullet"), "*"),
    **dict.fromkeys(("odot", "circ"), "⊙"),
    "otimes": "⊗",
    "partial": " ∂",
    **dict.fromkeys(("geq", "ge", "geqslant"), ">="),
    **dict.fromkeys(("leq", "le", "leqslant"), "<="),
    **{"gt": ">", "lt": "<", "neq": "!=", "ne": "!=", "land": " and ", "wedge": " and "},
    **dict.fromkeys(("top", "intercal", "transpose"), "T"),
    **{"prime": "'", "ell": "ℓ", "nabla": "∇", "sum": " Σ"},
    **{f: f" {f} " for f in "tanh exp ln log sin cos max min sqrt".split()},
    **GREEK,
    **dict.fromkeys(
        "left right big Big bigl bigr Bigl Bigr bigg Bigg displaystyle textstyle limits nonumber notag".split(), ""
    ),
    **dict.fromkeys("downarrow uparrow swarrow searrow hookrightarrow mathrm mathit mathsf mathcal mathbf".split(), ""),
    **dict.fromkeys("boldsymbol bm vec operatorname mathbb mathscr nolimits hspace".split(), ""),
    **{"quad": " , ", "qquad": " , ", "boxed": "", "fbox": "", "colon": ":", "ldots": "…", "cdots": "…"},
}
_HATS = {
    "hat": "hat",
    "widehat": "hat",
    "bar": "bar",
    "overline": "bar",
    "tilde": "tilde",
    "widetilde": "tilde",
    "dot": "dot",
}
_COMBINING = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde"}
_PHRASES = {"falls": "if", "wenn": "if", "für": "for", "pour": "for", "si": "if", "sonst": "otherwise", "sinon": "otherwise",
            "andernfalls": "otherwise", "ansonsten": "otherwise", "und": "and"}  # fmt: skip


def plain(raw: str, known: Vocabulary = NOTHING) -> str:
    r"""Turn LaTeX and Unicode into the notation of the grammar.

    >>> plain(r"\frac{\partial L}{\partial \hat{y}} \cdot w_2")
    '∂L/∂yhat * w2'
    >>> plain(r"\sum_i w_{ji} x_i + \sigma'(z^{[1]})")
    "Σ⟨i⟩ w⟨ji⟩ x⟨i⟩ + ⨍σ'(z1)"
    """
    text = _rewritten(_layers(_flat(raw, known.indices, known.counters), known.layered), _NUMPY)
    for v in known.squares:
        text = re.sub(rf"(?<![A-Za-zͰ-Ͽ_])((?:[d∂]\s?)?){v}\s*\^\s*\(?2\)?(?!\d)", rf"\1{v}²", text)
        if v not in known.bare:  # beside σ², σ is its root
            text = re.sub(rf"(?<![A-Za-zͰ-Ͽ_∂]){v}(?![²\w⟨'(])", f"({v}²)^(1/2)", text)
    text = re.sub(r"(?<![A-Za-z0-9_Ͱ-Ͽ])δ\s*(?=[A-Za-z])", "δ_", text) if known.deltas else text
    if known.entrywise:
        text = re.sub(r"(?<=\w)\[(?![^\[\]]*[<>=])", "⟪index⟫[", text).replace("*", "⋆")
    text = re.sub(r"(?<![A-Za-z0-9_])[Hu](?=\([^()=]*\))(?!\([^()]*-)", _step(known), text)
    text = _words(_derivatives(_rewritten(text, _FUNCTION_NAMES), known.bare), known)
    return _rewritten(text, _CASES).strip(" ,;:").rstrip(" ,;.:")


class Rule(NamedTuple):
    """What a pattern stands for, and what is written in its place."""

    what: str
    pattern: re.Pattern
    new: str | Callable[[re.Match], str]


def _rules(*rules: tuple[str, str, str | Callable[[re.Match], str]]) -> tuple[Rule, ...]:
    return tuple(Rule(what, re.compile(pattern), new) for what, pattern, new in rules)


def _rewritten(text: str, rules: tuple[Rule, ...]) -> str:
    """The rules applied one after the other: a later one sees what an earlier one wrote."""
    for rule in rules:
        text = rule.pattern.sub(rule.new, text)
    return text


def _primed(match: re.Match) -> str:
    return f"{(match[1] or match[2]).lower()}'"


_MODULES = "np|jnp|numpy|torch|tf|math|nn|F|jax|scipy|special"
_NUMPY = _rules(
    ("np.exp, torch.nn.functional.relu", rf"\b(?:{_MODULES})\.(?:nn\.|linalg\.|functional\.)?(?=[a-zA-Z])", "ⓝ"),
    ("np.sum(a) over all", r"ⓝsum(?=\s*\((?:[^()]|\([^()]*\))*\))(?!\s*\(.*axis)", "npsum"),
    ("other functions of a module", r"ⓝ", ""),
    ("a.copy()", r"\.(?:astype\(\w+\)|(?:float|copy|clone|detach|item)\(\))|\bcopy(?=\()", ""),
    ("np.array(a, copy=True)", r"\barray\((?=\w+\s*(?:,\s*copy\s*=\s*\w+)?\))(\w+)[^()]*\)", r"\1"),
    ("a.transpose()", r"\.(?:t|transpose)\((?:\s*-?\d\s*,\s*-?\d\s*)?\)|\.mT\b", ".T"),
    ("a.clamp(min=0)", r"\.clamp(?:_min)?\((?:min\s*=\s*)?0(?:\.0?)?\)", ".relu()"),
    ("a.max(1).values", r"\.values\b", ""),
    ("a.mm(b)", r"\.(?:mm|matmul)(?=\()", ".dot"),
    ("zeros_like(a)", r"\bzeros(?:_like)?\((?:[^()]|\([^()]*\))*\)", "0"),
    ("ones_like(a)", r"\bones_like\((\w+)\)", r"(0 * \1 + 1)"),
    ("ones(n)", r"\bones(?:_like)?\((?:[^()]|\([^()]*\))*\)", "1"),
    ("1./m", r"(?<=\d)\.(?=\s*(?:[-+*/@)(,]|$))", ""),
    ("keepdims=True", r",\s*(?:keepdims?|dtype)\s*=\s*\w+", ""),
    ("axis=0", r"\b(?:axis|dim)\s*=\s*(-?\d)", r"axis:\1"),
    ("a.sum(0)", r"\.(sum|mean|max|min|var|std|softmax)\(\s*(-?\d)\s*\)", r".\1(axis:\2)"),
    ("1[z > 0], I(z > 0)", r"(?<![A-Za-z0-9_])(?:I|1_?)\s*(?=[\[{])|(?<![A-Za-z0-9_.])1_\s*(?=\()"
     r"|(?<![A-Za-z0-9_])I\s*(?=\([^()]*[<>])", "1 "),
)  # fmt: skip
_FUNCTION_NAMES = _rules(
    ("ReLU", r"(?i)\b(relu|tanh|sigmoid|leaky_?relu|softplus|elu|silu|softmax|ce(?=\s*\())\b", lambda m: m[1].lower()),
    ("drelu(z), relu_prime",
     r"(?i)\b(?:d|grad_?)_?(relu|tanh|sigmoid)\s*(?=\()|\b(relu|tanh|sigmoid|g)_(?:prime|grad|deriv)\b", _primed),
    ("g '(z)", r"\s+(?='+\s*\()", ""),
    ("tanh²(z), tanh² z", rf"\b({'|'.join(sorted(ELEMENTWISE, key=len)[::-1])})\s*\^\s*(?:\((\d)\)|(\d))\s*(?:(\()|({NAME}))",
     lambda m: f"{m[1]}^{m[2] or m[3]}(" + ((m[4] and " ") or f"{m[5]})")),
    ("g'_1 is g1'", r"('+)_?(\d+)(?=\s*\()", r"\2\1"),
)  # fmt: skip
_CASES = _rules(
    ("i = j, of indices", "≟", "=="),
    ("1 if z > 0 and 0 otherwise", r"\band\s+(?=[\w.]+\s+(?:otherwise|else|if|for|when)\b)", ", "),
    ("commas in a row", r",(?:\s*,)+", ","),
    ("a comma before if", r",\s*(?=(?:if|for|when|else|otherwise|elsewhere)\b)", " "),
    ("if otherwise", r"\b(if|for|when)\s+(else|otherwise|elsewhere)\b", r"\2"),
    ("otherwise:", r"\b(else|otherwise|elsewhere)\s*[.:,]", r"\1"),
    ("w1 . h0", r"(?<=\s)\.(?=\s)", "*"),
    ("spaces", r"\s+", " "),
    ("a space before a bracket closes", r"\s+(?=[)\]])", ""),
)


def _step(known: Vocabulary):
    return lambda m: m[0] if m[0] in known.letters and m[0] in known.functions else "step"


def _scripts(text: str) -> str:
    """z₁ as z_{1}, x² as x^{2}; and one minus sign."""
    text = re.sub("[−–]", "-", text)
    text = re.sub(f"[{''.join(_SUBSCRIPTS)}]+", lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    return re.sub(f"[{''.join(_SUPERSCRIPTS)}]+", lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)


def _flat(raw: str, index: str = INDEX, counters: frozenset[str] = frozenset()) -> str:
    """Characters and LaTeX resolved: sub- and superscripts of names are digits, ⟨letters⟩ or words after _."""
    text = coded(_scripts(re.sub("[\u2460-\u24ff\u2776-\u2793]", " ", raw)), counters)  # circled numbers only label
    text = _rewritten(_rewritten(text, _SPELLINGS).translate(_CHARACTERS), _LAYERS)
    text = _rewritten(_norms(_latex(text, index)), _SYMBOLS)

    def tagged(m: re.Match) -> str:
        return m[0] if "(" in m[0] else _tag(m[1].split("_"), index)

    text = re.sub(r"(?<=[A-Za-zͰ-Ͽ0-9⟩])_\(?([A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)", tagged, text)
    return _rewritten(text, _INDICES)


_SECOND = re.compile(
    rf"(?<![A-Za-z0-9_])[d∂]\s*\^\s*\(?2\)?\s*({NAME})\s*/\s*\(?\s*[d∂]\s*({NAME})\s*(?:\^\s*\(?2\)?|\*?\s*[d∂]\s*({NAME}))\s*\)?"
)


def _second(match: re.Match) -> str:
    """d^2L/dw^2 as ∂²L/∂w∂w."""
    return f" ∂²{match[1]}/∂{match[2]}∂{match[3] or match[2]} "


def _accent(match: re.Match) -> str:
    letter = unicodedata.normalize("NFD", match[0])
    mark = _COMBINING.get(letter[1:2])
    return f" {letter[0]}{mark}" if mark else match[0]


def _kronecker(match: re.Match) -> str:
    return f"δ⟨{match[1] or match[3]}{match[2] or match[4]}⟩"


_SPELLINGS = _rules(
    ("sum_k y_k", r"(?<![A-Za-z0-9_.\\])sum\s*_\s*(?=\{?\s*[a-z](?![A-Za-z0-9]))", " Σ_"),
    ("δL/δw", r"(?:δ|\\delta(?![a-z]))\s*(\w+)\s*/\s*(?:δ|\\delta(?![a-z]))(?=\s*\w)", r"∂\1/∂"),
    (r"\frac{\delta L}{\delta w}", r"(\\[dt]?frac\s*\{\s*)(?:δ|\\delta)\s*([^{}]*\}\s*\{\s*)(?:δ|\\delta(?![a-z]))", r"\1∂ \2∂ "),
    ("self.W, a.data", r"\bself\.(?=[A-Za-z])|(?<=\w)\.data\b", ""),
    ("W[0]", r"\b([A-Za-z]\w*)\[(\d)\](?!\[)", r"\1_\2"),
    ("grads['W1']", r"\bgrad(?:ient)?s?\[['\"](?!d)(\w+)['\"]\]", r"d\1"),
    ("params['W1']", r"\b\w+\[['\"](\w+)['\"]\]", r"\1"),
    ("a.grad", r"\b([A-Za-z]\w*)\.grad\b", r"grad_\1"),
    ("p[range(n), y]", r"\b([A-Za-z]\w*)\s*\[\s*(?:j?np\.arange|torch\.arange|range)\([^()]*\)\s*,\s*([A-Za-z]\w*)\s*\]",
     r"pick(\2 ⊙ \1, axis=1)"),
    ("log p[k]", r"(?<=log\()\s*([A-Za-z]\w*)\[\s*([kc])\s*\]", r"pick(\2 ⊙ \1)"),
    ("dz[k] -= 1", r"\b([A-Za-z]\w*)\[\s*([kc])\s*\](?=\s*$)", r"pick(\2 ⊙ \1)"),
    ("z[i]", r"(?<=[A-Za-z0-9])\[([ijn])\]", r"_{\1}"),
    ("p[target]", r"\b([A-Za-z]\w*)\[\s*(y|Y|Yb|targets?|labels?|correct\w*)\s*\]", r"pick(\2 ⊙ \1)"),
    ("ŷ", r"(?:(?<![A-Za-zÀ-ɏẀ-ỹ])|(?<=/d)|(?<=^d)|(?<=\sd))([A-Za-zͰ-Ͽ][\u0302-\u0304]|[À-ɏẀ-ỹ])(?![A-Za-zÀ-ɏẀ-ỹ])", _accent),
)  # fmt: skip
_LAYERS = _rules(
    ("z^[1], a^(2)", r"(?<=[A-Za-zͰ-Ͽ])\s?\^(?:\[(\d)\]|(?<=[zawbhδZAWBHΔ]\^)\((\d)\))", lambda m: f"_{{{m[1] or m[2]}}}"),
)  # fmt: skip
_SYMBOLS = _rules(
    ("h_θ(x)", r"(?<![A-Za-z0-9_])([hfgp])_\(?(?:θ|\\theta|w|W|[wW],\s*b)\)?\s?(?=\()", r"\1"),
    ("d^2L/dw^2", _SECOND.pattern, _second),
    ("z^l where nothing counts: not read",
     r"(?<=[A-Za-zδ])\s?\^\s?(?:\(?\[?[lL]\s?(?:[+-]\s?1)?\]?\)?)(?![A-Za-z])", "⟪layer⟫"),
    ("1/2m", r"/\s?(\d)([mnNMB])(?![A-Za-z0-9_])", r"/(\1*\2)"),
    ("a power in code", r"\*\*", "^"),
    ("[j = k]", r"\[\s*([a-z])\s*={1,2}\s*([a-z])\s*\]|1\s*[({⟦]\s*([a-z])\s*={1,2}\s*([a-z])\s*[)}⟧]", _kronecker),
    ("delta", r"(?<![\w⟨])(d?)(alpha|beta|gamma|delta|epsilon|lambda|theta|mu|eta|sigma|rho|phi|psi)(?=_|\d|\b)",
     lambda m: m[1] + GREEK[m[2]]),
    ("X^T X", r"\^T(?=[A-Za-z])", "^T "),
)  # fmt: skip
_INDICES = _rules(
    ("x^(i), of example i", rf"({NAME})\^\(([ijn])\)", r"\1⟨\2⟩"),
    ("letters before a layer's number", r"(⟨[a-z]+⟩)_?(\d+)(?![\d.])", r"\2\1"),
    ("letters apart", r"⟨([a-z]+)⟩\s?⟨([a-z]+)⟩", r"⟨\1\2⟩"),
    ("z_1", r"(?<=[A-Za-zͰ-Ͽ])_(?=\d)", ""),
    ("σ^2_B", r"(?<=[A-Za-zͰ-Ͽ])(\^\(?2\)?)_(\w+)", r"_\2\1"),
    ("y_hat", r"(?:\b|(?<=\bd))(?:y_?hat|hat_?y)\b", "yhat"),
)


def _tag(parts: list[str], index: str) -> str:
    """A subscript: digits belong to the name, letters index it, a word goes on the name."""
    digits, letters, words = "", "", []
    for part in parts:
        if part.isdigit():
            digits += ("_" if digits or words else "") + part
        elif part == "o" and "0" in index:
            digits += "0"
        elif len(part) <= 2 and part.isalpha() and set(part) <= set(index):
            letters += part
        elif len(part) == 2 and part[0].isdigit() and part[1] in index:
            digits, letters = digits + part[0], letters + part[1]
        else:
            words.append(part)
    if words:
        return "_" + "_".join(parts)
    return (f"_{digits}" if digits else "") + (f"⟨{letters}⟩" if letters else "")


def _norms(text: str) -> str:
    bar = r"(?:\|\||∥)"
    text = re.sub(rf"{bar}((?:(?!{bar}).)*){bar}(?:_?\(?[2F]\)?)?\s*\^\(?2\)?", r" sum((\1)^2)", text)
    text = re.sub(rf"{bar}((?:(?!{bar}).)*){bar}(?:_?[2F])?", r" norm(\1)", text)
    return re.sub(r"(?:(?<=[-+*/=(,])|(?<=[-+*/=(,]\s)|^)(\s*)\|([^|=<>]+)\|", r"\1abs(\2)", text)


def _layers(text: str, layered: frozenset[str]) -> str:
    """z^1 as z1, where a text's superscripts count layers."""
    return re.sub(r"(?<![A-Za-z0-9_])((?:[d∂]\s?)?)([A-Za-zδ])\s*\^\s*(?:\((\d)\)|(\d))(?![\d.])",
                  lambda m: f"{m[1]}{m[2]}{m[3] or m[4]}" if m[2] in layered else m[0], text)  # fmt: skip


def _derivatives(text: str, values: Collection[str]) -> str:
    """dL/dz, d/dw (…), ∇_w L, dg(z)/dz; `values` are names that the text computes."""
    named = rf"(?:\(\s*({NAME})\s*\)|({NAME})(?:\s*\([^()]*\))?)"
    tops = "|".join(dict.fromkeys((*LOSSES, "f", *sorted(values))))
    text = re.sub(rf"∇\s*({'|'.join(LOSSES)})(?=\s*$)", "⟪∂⟫", text)  # by what is not said
    text = re.sub(rf"∇\s*({tops})(?=\s*$)", r"\1'", text)
    text = re.sub(rf"∇\s*({tops}|[a-zA-Z])\s*\(\s*({NAME})\s*\)", r" ∂\1/∂\2 ", text)
    text = re.sub(rf"∇_?⟨?\(?\s*({NAME})\)?⟩?\s*({tops})\s*\(\s*\1\s*\)", r" ∂\2/∂\1 ", text)
    text = re.sub(rf"∇_?⟨?\(?\s*({NAME})\)?⟩?\s*({tops})(?![A-Za-z0-9'_⟨])", r" ∂\2/∂\1 ", text)
    text = re.sub(rf"∇_?\(?\s*({NAME})\)?", r" ∂\1 ", text)
    text = re.sub(
        rf"([d∂])\s*({GENERIC.pattern}|{'|'.join(ELEMENTWISE)})\s*\(\s*({NAME})\s*\)\s*/\s*[d∂]\s*({NAME})",
        _slope,
        text,
    )
    text = re.sub(rf"\bd({'|'.join(LOSSES)})_?_?d_?(?=[A-Za-zͰ-Ͽ])", r"∂\1/∂", text)
    text = re.sub(
        rf"(?<![A-Za-z0-9_Ͱ-Ͽ])[d∂]\s*{named}\s*/\s*(?:\(\s*[d∂]\s*({NAME})\s*\)|[d∂]\s*({NAME}))",
        lambda m: f" ∂{m[1] or m[2]}/∂{m[3] or m[4]} ",
        text,
    )
    text = re.sub(rf"(?<![A-Za-z0-9_])[d∂]\s*/\s*[d∂]\s*({NAME})", r" ∂/∂\1 ", text)
    text = re.sub(r"(?<![A-Za-z0-9_Ͱ-Ͽ])d\s*(?=\([^()]*(?:\([^()]*\)[^()]*)*\)\s*/\s*[d∂])", "∂", text)
    return re.sub(rf"(\)\s*)/\s*d(?={NAME})", r"\1/∂", text)


def _slope(match: re.Match) -> str:
    """dg(z1)/dz1 is g'(z1)."""
    _, function, inside, variable = match.groups()
    return f" {function}'({variable}) " if inside == variable else match[0]


# --- words -----------------------------------------------------------------------------------------------------------


def _words(text: str, known: Vocabulary) -> str:
    """Each run of letters as what it is: a function, a name, a derivative, or letters side by side."""

    def resolved(match: re.Match) -> str:
        before, word, rest = text[: match.start()], match[0], text[match.end() :]
        if (
            before.endswith(("⟨", "⟨:", ".", "⨍"))
            or re.search(r"⟨[a-z]*:$|axis$", before)
            or rest.startswith(":-")
            or word == "axis"
        ):
            return word
        if _is_product(word, before, rest) and word not in known.words:
            return f"{word[0]} {word[1]}"
        return _word(word, rest, before.rstrip().endswith(("∂", "∂²")), known)

    return re.sub(rf"⟨[a-z]+(?::\w+)?⟩|{_IDENTIFIER.pattern}", lambda m: m[0] if m[0][0] == "⟨" else resolved(m), text)


def _is_product(word: str, before: str, rest: str) -> bool:
    """Whether two small letters between operators are a product: the wx of wx + b."""
    if not re.fullmatch(r"[abceghk-z][a-z]", word) or word in STOP or word in WORDS:
        return False
    before, rest = before.rstrip(), rest.lstrip()
    apart = (not before or before[-1] in "-+*/=(0123456789") and (not rest or rest[0] in "-+*/=)^")
    return apart and bool(before or rest)


def _word(word: str, rest: str, after_d: bool, known: Vocabulary) -> str:
    function = re.match(r"'*\s*\(", rest) or re.match(r"'*\s*\^\s*\d\s*\(", rest)
    primed = rest.startswith("'")
    phrase = _PHRASES.get(word)
    if phrase:
        return phrase
    if word in known.words and not (word in ELEMENTWISE and function):
        return word
    if word == "e" and re.match(r"\s*\^", rest):
        return "ℯ"
    if word in ELEMENTWISE or word.lower() in ("relu",):
        bare = re.match(r"\s*[A-Za-zͰ-ϿΣ⨍(]", rest)
        return f"⨍{word}" if function or bare or primed else word
    if word in KEYWORDS or after_d:
        return word
    several = len(word) == 1 or word.lower() in ("loss", "cost")  # L(a, y): of several arguments
    if (word in known.functions and function) or (several and re.match(r"\s?\([\w⟨⟩^ ]+(?:,[\w⟨⟩^ ]+)+\)", rest)):
        return f"⨍{word}"
    if GENERIC.fullmatch(word) and function and (primed or word not in known.bare):
        return f"⨍{word}"
    quotient = _LOCAL.fullmatch(word)
    if quotient and {*quotient.groups()} <= {*known.letters, *known.words}:
        return f"∂{quotient[1]}/∂{quotient[2]}"
    short = re.fullmatch(r"(?:d|d_|D_|grad_?|gradient_|delta_)(?=[A-Za-zͰ-Ͽ])(\w+)|(\w+?)_grad(?:ient)?", word)
    inner = next(g for g in short.groups() if g) if short else ""
    plainly = word[:4] == "grad" or "_grad" in word or (word[:2] == "d_" and inner not in INDEX)
    if plainly and (inner in known.words or inner in known.letters):
        return f"∂{inner}"
    if known.bars and word.endswith("bar"):
        return f"∂{word[:-3]}"
    if _SINGLE.fullmatch(word) or _is_name(word):
        return word
    if inner and (inner in known.words or _SINGLE.fullmatch(inner) or _is_name(inner)):
        return f"∂{inner}"
    if re.fullmatch(r"[A-Z][a-z]", word) and word.lower() not in STOP:  # W x
        return f"{word[0]} {word[1]}"
    pieces = re.findall(r"[A-Za-zͰ-Ͽ]\d*", word)
    stems = {p[0] for p in known.letters}
    if (
        word not in STOP
        and "".join(pieces) == word
        and len(pieces) <= 4
        and all(p in known.letters or (p[0] in stems and len(p) == 1) for p in pieces)
    ):
        last = _word(pieces[-1], rest, False, known)
        return " ".join([*pieces[:-1], last])
    return word


def _is_name(word: str) -> bool:
    """yhat, target_o1, hbar2: words that mathematics knows."""
    stem = re.sub(r"\d+$", "", word.split("_")[0])
    return stem in WORDS or re.fullmatch(r"[A-Za-zͰ-Ͽ](?:hat|bar|tilde|dot)", stem) is not None


def is_formula(word: str, known: Vocabulary) -> bool:
    """Whether a word of the resolved notation belongs to a formula and not to prose."""
    return bool(
        _SINGLE.fullmatch(word)
        or word in known.words
        or word in KEYWORDS
        or word.lower() in ELEMENTWISE
        or _is_name(word)
        or word == "axis"
    )


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def _latex(text: str, index: str) -> str:
    """Resolve commands, then braces from the inside out; what is left over stays, and will be reported."""
    text = _rewritten(text, _BRACES_OF_CASES)
    if "⟦" in text:
        text = re.sub(r"⟦[^⟦⟧]*⟧", lambda m: m[0].replace("&", ",").replace("\\\\", ";"), text)
    text = _rewritten(text, _LATEX)
    for _ in range(MAX_DEPTH):  # each pass resolves the innermost braces
        before = text
        text = re.sub(r"_\s*\{([^{}]*)\}", lambda m: _subscript(m, index), _rewritten(text, _BELOW_AND_ABOVE))
        text = _rewritten(text, _BRACES)
        if text == before:
            break
    text = re.sub(r"\^\s*(?:\*(?!\*)|')", lambda m: "'" if "'" in m[0] else "", text) if "**" not in text else text
    return text.replace("⟦", "{").replace("⟧", "}")


def _hat(match: re.Match) -> str:
    command, inside = match[1], (match[2] or match[3] or match[4] or "").lstrip("\\")
    if command not in _HATS or not (len(inside) == 1 or inside in GREEK):
        return match[0]
    apart = " " if re.match(r"[A-Za-z\\]", match.string[match.end() :]) else ""  # \bar{y}\sigma
    return f" {GREEK.get(inside, inside)}{_HATS[command]}{apart}"


def _sum(match: re.Match) -> str:
    r"""\sum_{k=1}^{K}, \sum_{i,j}."""
    below = re.sub(r"\s|\\neq?|\(|\)", "", match[1] or match[2] or "")
    letters, _, _ = below.partition("=")
    letters = letters.replace(",", "").replace("∈", "")
    above = re.sub(r"\W", "", match[3] or match[4] or "")
    if not letters or not re.fullmatch(r"[a-z]{1,3}", letters):
        return f"Σ⟪{below}⟫"  # not read
    bound = f":{above}" if re.fullmatch(r"[A-Za-z]\w*", above) else ""
    return f" Σ⟨{letters}{bound}⟩ "


def _subscript(match: re.Match, index: str) -> str:
    inside = match[1].strip()
    if re.search(r"[<>=]", inside):
        return f"⟦{inside}⟧"  # 1_{z1 >= 0}
    if re.search(r"[+\-*/]", inside):
        return f"_⟪{inside}⟫"  # an index that is computed: not read
    apart = " " if match.string[match.end() : match.end() + 1].isalpha() else ""  # w_{jk}^{(L)}a_k
    return _tag([p for p in re.split(r"[\s,()\[\]_⟨⟩]+", inside) if p], index) + apart


def _superscript(match: re.Match) -> str:
    inside = match[1].strip()
    layer = re.fullmatch(r"[\[(]\s*(\d+)\s*[\])]\s*\^?\s*(T?)", inside)  # a^{[1]}, W^{(2)T}, W^{[1]^T}
    if layer:
        return f"_{layer[1]} " + ("^T " if layer[2] else "")
    example = re.fullmatch(r"[(\[]\s*([ijn])\s*[)\]]\s*(T?)", inside)  # x^{(i)}: of example i
    if example:
        return f"⟨{example[1]}⟩ " + ("^T " if example[2] else "")
    if inside in ("", "*"):
        return ""
    if set(inside) <= {"'"}:
        return inside
    return "^T " if inside == "T" else f"^({inside})"


def _fraction(match: re.Match) -> str:
    top, bottom = match[1], match[2]
    twice = _SECOND.fullmatch(f"{top.strip()}/{bottom.strip()}")
    if twice:
        return _second(twice)
    below = re.fullmatch(rf"\s*[d∂]\s*({NAME}(?:_\d+|\s*\^\s*\(?\d\)?)?)\s*", bottom)
    above = re.fullmatch(rf"\s*[d∂]\s*({NAME}(?:_\d+|\s*\^\s*\(?\d\)?)?)\s*", top)
    if above and below:
        return f" ∂{above[1]}/∂{below[1]} "
    if below and re.fullmatch(r"\s*[d∂]\s*", top):
        return f" ∂/∂{below[1]} "
    whole = re.fullmatch(r"\s*[d∂]\s*(\S.*)", top)
    if whole and below:
        call = re.fullmatch(rf"({NAME})\s*\(\s*{re.escape(below[1])}\s*\)\s*", whole[1])
        bare = re.fullmatch(rf"({NAME})\s*\([^()]*\)\s*", whole[1])
        if call and (GENERIC.fullmatch(call[1]) or call[1] in ELEMENTWISE):
            return f" {call[1]}'({below[1]}) "
        if bare and bare[1] in LOSSES:
            return f" ∂{bare[1]}/∂{below[1]} "
        return f" ∂({whole[1]})/∂{below[1]} "
    return f"(({top})/({bottom}))"


def _group(match: re.Match) -> str:
    inside = match[1]
    return f"⟦{inside}⟧" if re.search(r"[<>]|otherwise|else|sonst|sinon", inside) else f"({inside})"


_ONE = r"\d|[A-Za-z]|\\(?!left|big|Big)[A-Za-z]+"  # what LaTeX takes without braces
_LETTERS = "mathbf|boldsymbol|bm|mathcal|mathit|mathsf|mathscr|vec"
_BRACES_OF_CASES = _rules(
    ("cases begin", r"\\left\s*\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?|\\begin\{(?:cases|rcases|dcases)\}", "⟦"),
    ("cases end", r"\\end\{array\}\s*\\right\s*\.|\\end\{(?:cases|rcases|dcases)\}", "⟧"),
)
_LATEX = _rules(
    (r"\{", r"\\\{", "⟦"),
    (r"\}", r"\\\}", "⟧"),
    ("norms", r"\\(?:\|)|\\[lr]Vert(?![A-Za-z])|\\Vert(?![A-Za-z])", "∥"),
    ("bars", r"\\[lr]vert(?![A-Za-z])", "|"),
    ("spaces", r"\\[,;:!> ]|~|&", " "),
    ("labels", r"\\(?:textcircled|tag|label|ref|eqref)\*?\s*(?:\{[^{}]*\}|\d)", " "),
    ("upright words", r"\\(?:text|textrm|textbf|textit|mbox|mathrm|operatorname)\*?\s*\{([^{}]*)\}", r" \1 "),
    (r"\mathbb{1}", r"\\mathb[bf]m?\s*\{\s*([1I])\s*\}|\\mathbbm\s*\{?1\}?", "1 "),
    (r"\mathbf{W}", rf"\\(?:{_LETTERS})\s*\{{\s*(\\?[A-Za-z]+)\s*\}}", r" \1"),
    (r"\hat{y}", r"\\(hat|widehat|bar|overline|tilde|widetilde|dot)\s*(?:\{\s*(\\?[A-Za-z]+)\s*\}|\s(\\?[A-Za-z])|(\\[a-z]+))",
     _hat),
    (r"\frac", r"\\[dtc]?frac(?![A-Za-z])", "⁄"),
    (r"\frac1{2}", rf"⁄\s*({_ONE})\s*", r"⁄{\1}"),
    (r"\frac{1}2", rf"(⁄\s*\{{[^{{}}]*\}})\s*({_ONE})", r"\1{\2}"),
    (r"\sqrt{a}", r"\\sqrt\s*\{([^{}]*)\}", r" sqrt(\1)"),
    ("other commands", r"\\([A-Za-z]+)", lambda m: str(_COMMANDS.get(m[1], m[0]))),
)  # fmt: skip
_BELOW_AND_ABOVE = _rules(
    ("what stands under a brace", r"(?:\\underbrace|\\overbrace)\s*\{([^{}]*)\}\s*[_^]\s*\{[^{}]*\}", r"(\1)"),
    ("sums", r"Σ\s*_\s*(?:\{([^{}]*)\}|([ijklmn]{2,3}(?![A-Za-z])|[a-z]))\s*(?:\^\s*(?:\{([^{}]*)\}|(\w)))?", _sum),
)
_BRACES = _rules(
    ("superscripts", r"\^\s*\{([^{}]*)\}", _superscript),
    ("fractions", r"⁄\s*\{([^{}]*)\}\s*\{([^{}]*)\}", _fraction),
    ("any other that no operator awaits: a group, or a case distinction",
     r"(?<![_^⁄}])(?<![_^⁄}]\s)(?<!brace)\{([^{}]*)\}(?!\s*\{)", _group),
)  # fmt: skip
