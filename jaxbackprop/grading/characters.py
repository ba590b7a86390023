r"""Unicode and LaTeX resolved: sub- and superscripts of names are digits, ⟨letters⟩ or words after _.

z₁, z_{1}, z^{[1]}  ->  z1        \frac{\partial L}{\partial \hat y}  ->  ∂L/∂yhat        \sum_i w_{ji}  ->  Σ⟨i⟩ w⟨ji⟩
"""

import re
import unicodedata

from jaxbackprop.grading.counters import coded
from jaxbackprop.grading.grammar import MAX_DEPTH, NAME
from jaxbackprop.grading.words import ELEMENTWISE, GENERIC, GREEK, INDEX, LOSSES, rewritten, rules

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
    **{f: f" {f} " for f in ["tanh", "exp", "ln", "log", "sin", "cos", "sinh", "cosh", "max", "min", "sqrt"]},
    **GREEK,
    **dict.fromkeys(
        [
            "left",
            "right",
            "big",
            "Big",
            "bigl",
            "bigr",
            "Bigl",
            "Bigr",
            "bigg",
            "Bigg",
            "displaystyle",
            "textstyle",
            "limits",
            "nonumber",
            "notag",
        ],
        "",
    ),
    **dict.fromkeys(
        [
            "downarrow",
            "uparrow",
            "swarrow",
            "searrow",
            "hookrightarrow",
            "mathrm",
            "mathit",
            "mathsf",
            "mathcal",
            "mathbf",
        ],
        "",
    ),
    **dict.fromkeys(["boldsymbol", "bm", "vec", "operatorname", "mathbb", "mathscr", "nolimits", "hspace"], ""),
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
_COMBINING = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde", "\u0307": "dot"}


def scripts(text: str) -> str:
    """z₁ as z_{1}, x² as x^{2}; and one minus sign."""
    text = re.sub("[−–]", "-", text)
    text = re.sub(f"[{''.join(_SUBSCRIPTS)}]+", lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    return re.sub(f"[{''.join(_SUPERSCRIPTS)}]+", lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)


def flat(raw: str, index: str = INDEX, counters: frozenset[str] = frozenset()) -> str:
    """Characters and LaTeX resolved: sub- and superscripts of names are digits, ⟨letters⟩ or words after _."""
    text = coded(scripts(re.sub("[\u2460-\u24ff\u2776-\u2793]", " ", raw)), counters)  # circled numbers only label
    text = rewritten(rewritten(text, _SPELLINGS).translate(_CHARACTERS), _LAYERS)
    text = rewritten(_norms(_latex(text, index)), _SYMBOLS)

    def tagged(m: re.Match) -> str:
        return m[0] if "(" in m[0] else _tag(m[1].split("_"), index)

    text = re.sub(r"(?<=[A-Za-zͰ-Ͽ0-9⟩])_\(?([A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)", tagged, text)
    return rewritten(text, _INDICES)


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


_SPELLINGS = rules(
    ("z^{(2)}_k", r"\^\s*(\{\s*[\[(]\d[\])]\s*\}|[\[(]\d[\])])\s*_\s*(\{[a-z]{1,2}\}|[a-z](?![A-Za-z]))", r"_\2^\1"),
    ("A^{-T}", r"(?<![A-Za-z])([A-ZΛϹ]_?\d?)\s*\^\s*\{?\s*-\s*(?:T|\\top)\s*\}?(?![A-Za-z])", r"(\1^{-1})^T"),
    ("sum_k y_k", r"(?<![A-Za-z0-9_.\\])sum\s*_\s*(?=\{?\s*[a-z](?![A-Za-z0-9]))", " Σ_"),
    ("δL/δw", r"(?:δ|\\delta(?![a-z]))\s*(\w+)\s*/\s*(?:δ|\\delta(?![a-z]))(?=\s*\w)", r"∂\1/∂"),
    (r"\frac{\delta L}{\delta w}", r"(\\[dt]?frac\s*\{\s*)(?:δ|\\delta)\s*([^{}]*\}\s*\{\s*)(?:δ|\\delta(?![a-z]))", r"\1∂ \2∂ "),
    ("self.W, a.data", r"\bself\.(?=[A-Za-z])|(?<=\w)\.data\b", ""),
    ("W[0], δ[2]", r"\b([A-Za-zͰ-Ͽ]\w*)\[(\d)\](?!\[)", r"\1_\2"),
    ("grads['W1']", r"\bgrad(?:ient)?s?\[['\"](?!d)(\w+)['\"]\]", r"d\1"),
    ("params['W1']", r"\b\w+\[['\"](\w+)['\"]\]", r"\1"),
    ("a.grad", r"\b([A-Za-z]\w*)\.grad\b", r"grad_\1"),
    ("p[range(n), y]", r"\b([A-Za-z]\w*)\s*\[\s*(?:j?np\.arange|torch\.arange|range)\([^()]*\)\s*,\s*([A-Za-z]\w*)\s*\]",
     r"pick(\2 ⊙ \1, axis=1)"),
    ("log p[k]", r"(?<=log\()\s*([A-Za-z]\w*)\[\s*([kc])\s*\]", r"pick(\2 ⊙ \1)"),
    ("dz[k] -= 1", r"\b([A-Za-z]\w*)\[\s*([kc])\s*\](?=\s*$)", r"pick(\2 ⊙ \1)"),
    ("x[i][j]", r"(?<=[A-Za-z0-9])\[([ijkn])(?:\]\[|\s*,\s*)([ijkn])\]", r"_{\1\2}"),
    ("z[i]", r"(?<=[A-Za-z0-9])\[([ijn])\]", r"_{\1}"),
    ("p[target]", r"\b([A-Za-z]\w*)\[\s*(y|Y|Yb|targets?|labels?|correct\w*)\s*\]", r"pick(\2 ⊙ \1)"),
    ("√d", r"√\s*([A-Za-zͰ-Ͽ]\w*|\d+)", r" sqrt(\1)"),
    ("ŷ", r"(?:(?<![A-Za-zÀ-ɏẀ-ỹ])|(?<=/d)|(?<=^d)|(?<=\sd))([A-Za-zͰ-Ͽ][\u0302-\u0304]|[À-ɏẀ-ỹ])(?![A-Za-zÀ-ɏẀ-ỹ])", _accent),
)  # fmt: skip
_LAYERS = rules(
    ("z^[1], a^(2)", r"(?<=[A-Za-zͰ-Ͽ])\s?\^(?:\[(\d)\]|(?<=[zawbhδZAWBHΔ]\^)\((\d)\))", lambda m: f"_{{{m[1] or m[2]}}}"),
)  # fmt: skip
_SYMBOLS = rules(
    ("y_hat_i", r"(?:\b|(?<=\bd))(?:y_?hat|hat_?y)(?=_|\b)", "yhat"),
    ("Xβ", r"(?<![A-Za-z0-9_Ͱ-Ͽ])([A-Z])(?=[α-ω](?![A-Za-z0-9_]))", r"\1 "),
    ("λI", r"(?<=[α-ω])I(?![A-Za-z0-9_])", " I"),
    ("2πσ", r"π(?=[A-Za-zͰ-Ͽ])", "π "),
    ("h_θ(x)", r"(?<![A-Za-z0-9_])([hfgp])_\(?(?:θ|\\theta|w|W|[wW],\s*b)\)?\s?(?=\()", r"\1"),
    ("d2f/dx2", r"(?<!\w)d2([A-Za-z])\s*/\s*d([A-Za-z])2(?!\d)", r" ∂²\1/∂\2∂\2 "),
    ("d^2L/dw^2", _SECOND.pattern, _second),
    ("z^l where nothing counts: not read",
     r"(?<=[A-Za-zδ])\s?\^\s?(?:\(?\[?[lL]\s?(?:[+-]\s?1)?\]?\)?)(?![A-Za-z])", "⟪layer⟫"),
    ("1/2m", r"/\s?(\d)([mnNMB])(?![A-Za-z0-9_])", r"/(\1*\2)"),
    ("a power in code", r"\*\*", "^"),
    ("[j = k]", r"\[\s*([a-z])\s*={1,2}\s*([a-z])\s*\]|1\s*[({⟦]\s*([a-z])\s*={1,2}\s*([a-z])\s*[)}⟧]", _kronecker),
    ("delta", r"(?<![\w⟨])(d?)(alpha|beta|gamma|delta|epsilon|lambda|theta|mu|eta|sigma|rho|phi|psi)(?=_|\d|\b)",
     lambda m: m[1] + GREEK[m[2]]),
    ("X^T X", r"\^T(?=[A-Za-zͰ-Ͽ])", "^T "),
)  # fmt: skip
_INDICES = rules(
    ("x^(i), of example i", rf"(?<![A-Za-z0-9_Ͱ-Ͽ])({NAME})\^\(([ijn])\)", r"\1⟨\2⟩"),
    ("letters before a layer's number", r"(⟨[a-z]+⟩)_?(\d+)(?![\d.])", r"\2\1"),
    ("letters apart", r"⟨([a-z]+)⟩\s?⟨([a-z]+)⟩", r"⟨\1\2⟩"),
    ("z_1", r"(?<=[A-Za-zͰ-Ͽ])_(?=\d)", ""),
    ("σ^2_B", r"(?<=[A-Za-zͰ-Ͽ])(\^\(?2\)?)_(\w+)", r"_\2\1"),
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
    text = re.sub(rf"{bar}((?:(?!{bar}).)*){bar}_\(?1\)?", r" sum(abs(\1))", text)
    text = re.sub(rf"{bar}((?:(?!{bar}).)*){bar}(?:_?[2F])?", r" norm(\1)", text)
    return _BARS.sub(_absolute, text) if text.count("|") % 2 == 0 else text


_BARS = re.compile(r"\|([^|=<>]+)\|(?:_\(?([12])\)?(?![0-9]))?(\s*\^\s*\(?2\)?(?!\d))?")


def _absolute(match: re.Match) -> str:
    """|z|, |w|_1, |z - t|^2."""
    inside = match[1].strip()
    if not inside or inside.count("(") != inside.count(")"):  # p(x|z) q(z|x)
        return match[0]
    if re.fullmatch("[A-Z]", inside) and re.search(rf"{inside}\s*\^", match.string):
        return "⟪determinant⟫"  # |X| X^{-T}
    if match[3]:
        return f" sum(({inside})^2)" if "⟨" not in inside else f" ({inside})^2"
    return f" sum(abs({inside}))" if match[2] == "1" else f" norm({inside})" if match[2] else f" abs({inside})"


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def _latex(text: str, index: str) -> str:
    """Resolve commands, then braces from the inside out; what is left over stays, and will be reported."""
    text = rewritten(text, _BRACES_OF_CASES)
    if "⟦" in text:
        text = re.sub(r"⟦[^⟦⟧]*⟧", lambda m: m[0].replace("&", ",").replace("\\\\", ";"), text)
    text = rewritten(text, _LATEX)
    for _ in range(MAX_DEPTH):  # each pass resolves the innermost braces
        before = text
        text = re.sub(r"_\s*\{([^{}]*)\}", lambda m: _subscript(m, index), rewritten(text, _BELOW_AND_ABOVE))
        text = rewritten(text, _BRACES)
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
    but = re.fullmatch("([a-z])!=([a-z])", below)
    if but:  # over all but one
        return f" Σ⟨{but[1]}⟩ (1 - δ⟨{but[1]}{but[2]}⟩) * "
    letters, _, _ = below.partition("=")
    letters = letters.replace(",", "").replace("∈", "")
    above = re.sub(r"\W", "", match[3] or match[4] or "")
    if not letters or not re.fullmatch(r"[a-z]{1,3}", letters):
        return f"Σ⟪{below}⟫"  # not read
    bound = f":{above}" if re.fullmatch(r"[A-Za-z]\w*", above) else ""
    return f" Σ⟨{letters}{bound}⟩ "


def _subscript(match: re.Match, index: str) -> str:
    inside = match[1].strip()
    if "brace" in match.string and match.string[: match.start()].rstrip().endswith("}"):
        return match[0]  # what stands under a brace
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
    power = re.fullmatch(r"[\[(]\s*(\d+)\s*[\])]\s*([2-9])", inside)  # A^{[1]2}
    if power:
        return f"_{power[1]} ^({power[2]})"
    both = re.fullmatch(r"\[\s*(\d+)\s*\]\s*\(\s*([ijn])\s*\)\s*(T?)", inside)  # a^{[2](i)}
    if both:
        return f"_{both[1]}⟨{both[2]}⟩ " + ("^T " if both[3] else "")
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
_BRACES_OF_CASES = rules(
    ("cases begin", r"\\left\s*\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?|\\begin\{(?:cases|rcases|dcases)\}", "⟦"),
    ("cases end", r"\\end\{array\}\s*\\right\s*\.|\\end\{(?:cases|rcases|dcases)\}", "⟧"),
)
_LATEX = rules(
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
_BELOW_AND_ABOVE = rules(
    ("what stands under a brace", r"(?:\\underbrace|\\overbrace)\s*\{([^{}]*)\}\s*[_^]\s*\{[^{}]*\}", r"(\1)"),
    ("sums", r"Σ\s*_\s*(?:\{([^{}]*)\}|([ijklmn]{2,3}(?![A-Za-z])|[a-z]))\s*(?:\^\s*(?:\{([^{}]*)\}|(\w)))?", _sum),
)
_BRACES = rules(
    ("superscripts", r"\^\s*\{([^{}]*)\}", _superscript),
    ("fractions", r"⁄\s*\{([^{}]*)\}\s*\{([^{}]*)\}", _fraction),
    ("any other that no operator awaits: a group, or a case distinction",
     r"(?<![_^⁄}])(?<![_^⁄}]\s)(?<!brace)\{([^{}]*)\}(?!\s*\{)", _group),
)  # fmt: skip
