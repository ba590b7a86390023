r"""LaTeX, Unicode, NumPy and plain text in the one notation of `grammar`.

raw formula --characters.flat()--> --rules for code, functions, derivatives--> --_words()--> the notation of `grammar`
"""

import re
from collections.abc import Collection

from jaxbackprop.grading.characters import flat
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.grammar import NAME
from jaxbackprop.grading.vocabulary import IDENTIFIER, LOCAL, NOTHING, SINGLE, Vocabulary
from jaxbackprop.grading.words import ELEMENTWISE, GENERIC, INDEX, KEYWORDS, LOSSES, STOP, WORDS, rewritten, rules

_PHRASES = {"falls": "if", "wenn": "if", "für": "for", "pour": "for", "si": "if", "sonst": "otherwise", "sinon": "otherwise",
            "andernfalls": "otherwise", "ansonsten": "otherwise", "und": "and"}  # fmt: skip


def plain(raw: str, known: Vocabulary = NOTHING) -> str:
    r"""Turn LaTeX and Unicode into the notation of the grammar.

    >>> plain(r"\frac{\partial L}{\partial \hat{y}} \cdot w_2")
    '∂L/∂yhat * w2'
    >>> plain(r"\sum_i w_{ji} x_i + \sigma'(z^{[1]})")
    "Σ⟨i⟩ w⟨ji⟩ x⟨i⟩ + ⨍σ'(z1)"
    """
    text = rewritten(_layers(flat(raw, known.indices, known.counters), known.layered), _NUMPY)
    for v in known.squares:
        text = re.sub(rf"(?<![A-Za-zͰ-Ͽ_])((?:[d∂]\s?)?){v}\s*\^\s*\(?2\)?(?!\d)", rf"\1{v}²", text)
        if v not in known.bare:  # beside σ², σ is its root
            text = re.sub(rf"(?<![A-Za-zͰ-Ͽ_∂]){v}(?![²\w⟨'(])", f"(({v}²)^(1/2))", text)
    text = re.sub(r"(?<![A-Za-z0-9_Ͱ-Ͽ])δ\s*(?=[A-Za-z])", "δ_", text) if known.deltas else text
    if known.entrywise:
        text = re.sub(r"(?<=\w)\[(?![^\[\]]*[<>=])", "⟪index⟫[", text).replace("*", "⋆")
    text = re.sub(r"(?<![A-Za-z0-9_])[Hu](?=\([^()=]*\))(?!\([^()]*-)", _step(known), text)
    text = _words(_derivatives(rewritten(text, _FUNCTION_NAMES), known.bare | known.functions | known.words), known)
    return rewritten(text, _CASES).strip(" ,;:").rstrip(" ,;.:")


def _primed(match: re.Match) -> str:
    return f"{(match[1] or match[2]).lower()}'"


_MODULES = "np|jnp|numpy|torch|tf|math|nn|F|jax|scipy|special"
_NUMPY = rules(
    ("np.exp, torch.nn.functional.relu", rf"\b(?:{_MODULES})\.(?:nn\.|linalg\.|functional\.)?(?=[a-zA-Z])", "ⓝ"),
    ("torch.tensor(3.0)",
     r"\b(?:tensor|array|constant|Variable|asarray|float32|float64)\(\s*(-?\d+(?:\.\d*)?)\s*(?:,[^()]*)?\)", r"\1"),
    ("len(x), x.shape[0], as a Greek capital", r"\blen\(\w+\)|\b\w+\.shape\[0\]|\b\w+\.size\(0\)|\bbatch_size\b", "Ν"),
    ("x.numel()", r"\b(\w+)\.(?:numel\(\)|size\b(?!\())|\bnumel\((\w+)\)", lambda m: f"npsum(0 * {m[1] or m[2]} + 1)"),
    ("reduce_sum(x)", r"\breduce_(?=(?:sum|mean|max)\()", ""),
    ("a[:, None] * b[None, :]",
     r"\b(\w+)\[:,\s*(?:None|ⓝ?newaxis)\]\s*[*@]\s*(\w+)\[(?:None|ⓝ?newaxis),\s*:\]", r"outer(\1, \2)"),
    ("a.reshape(-1, 1) @ b.reshape(1, -1)",
     r"\b(\w+)\.reshape\(\s*-1,\s*1\s*\)\s*[*@]\s*(\w+)\.reshape\(\s*1,\s*-1\s*\)", r"outer(\1, \2)"),
    ("x.^2, a .+ b, tanh.(z)", r"(?<=[\w)\]])\s?\.(?=[\^+/-]|\s?\()(?!\s?\(\))", ""),
    ("sum (a) b, of the products", r"(?<![.\w])sum\s+(?=\((?!.*axis))", " Σ "),
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
    ("softmax(a, 1)", r"\b((?:log_)?softmax)\(\s*(\w+)\s*,\s*(-?\d)\s*\)", r"\1(\2, axis:\3)"),
    ("a.sum(0)", r"\.(sum|mean|max|min|var|std|softmax)\(\s*(-?\d)\s*\)", r".\1(axis:\2)"),
    ("1[z > 0], I(z > 0)", r"(?<![A-Za-z0-9_])(?:I|1_?)\s*(?=[\[{])|(?<![A-Za-z0-9_.])1_\s*(?=\()"
     r"|(?<![A-Za-z0-9_])I\s*(?=\([^()]*[<>])", "1 "),
)  # fmt: skip
_FUNCTION_NAMES = rules(
    ("ReLU", r"(?i)\b(relu|tanh|sigmoid|leaky_?relu|softplus|elu|silu|softmax|ce(?=\s*\())\b", lambda m: m[1].lower()),
    ("Tr(A B)", r"\b(?:Tr|tr|trace)\s*(?=[(\[])", "tr"),
    ("drelu(z), relu_prime",
     r"(?i)\b(?:d|grad_?)_?(relu|tanh|sigmoid)\s*(?=\()|\b(relu|tanh|sigmoid|g)_(?:prime|grad|deriv)\b", _primed),
    ("g '(z)", r"\s+(?='+\s*\()", ""),
    ("tanh²(z), tanh² z", rf"\b({'|'.join(sorted(ELEMENTWISE, key=len)[::-1])})\s*\^\s*(?:\((\d)\)|(\d))\s*(?:(\()|({NAME}))",
     lambda m: f"{m[1]}^{m[2] or m[3]}(" + ((m[4] and " ") or f"{m[5]})")),
    ("g'_1 is g1'", r"('+)_?(\d+)(?=\s*\()", r"\2\1"),
)  # fmt: skip
_CASES = rules(
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


def _layers(text: str, layered: frozenset[str]) -> str:
    """z^1 as z1, where a text's superscripts count layers."""
    return re.sub(r"(?<![A-Za-z0-9_])((?:[d∂]\s?)?)([A-Za-zδ])\s*\^\s*(?:\((\d)\)|(\d))(?![\d.])",
                  lambda m: f"{m[1]}{m[2]}{m[3] or m[4]}" if m[2] in layered else m[0], text)  # fmt: skip


def _derivatives(text: str, values: Collection[str]) -> str:
    """dL/dz, d/dw (…), ∇_w L, dg(z)/dz; `values` are names that the text computes."""
    named = rf"(?:\(\s*({NAME})\s*\)|({NAME})(?:\s*\([^()]*\))?)"
    tops = "|".join([*sorted({*LOSSES, "f", *values}, key=len)[::-1], r"[LJECℓ](?:tilde|hat|bar|_\w+)"])
    text = re.sub(rf"(?<![A-Za-z0-9_Ͱ-Ͽ])([LJECℓl])'\s*\(\s*({NAME})\s*\)", r" ∂\1/∂\2 ", text) if "'" in text else text
    text = re.sub(rf"∂_\(?({NAME})\)?\s*({tops})(?![A-Za-z0-9_⟨])", r" ∂\2/∂\1 ", text)
    text = re.sub(r"∇_?⟨?\(?\s*\w*\)?⟩?\s*\^\s*\(?2\)?", "⟪∇²⟫", text)
    text = re.sub(rf"∇\s*({tops})(?=\s*(?:$|[-+]))", r"\1'", text)  # by what, its definition says
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
    text = re.sub(rf"(?<![A-Za-z0-9_∂])[d∂]\s*/\s*[d∂]\s*({NAME})", r" ∂/∂\1 ", text)
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

    return re.sub(rf"⟨[a-z]+(?::\w+)?⟩|{IDENTIFIER.pattern}", lambda m: m[0] if m[0][0] == "⟨" else resolved(m), text)


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
    if word == "where" and not function:
        return word
    step = counter(word)
    if (step[0] if step else word) in known.words and not (word in ELEMENTWISE and function):
        return word
    if word == "e" and re.match(r"\s*\^", rest):
        return "ℯ"
    if word in ELEMENTWISE:
        bare = re.match(r"\s*[A-Za-zͰ-ϿΣ⨍(]", rest)
        return f"⨍{word}" if function or bare or primed else word
    if word in KEYWORDS or after_d:
        return word
    several = len(word) == 1 or word.lower() in ("loss", "cost")  # L(a, y): of several arguments
    if (word in known.functions - {"Φ", "φ"} and function) or (
        several and re.match(r"\s?\([\w⟨⟩^ ]+(?:,[\w⟨⟩^ ]+)+\)", rest)
    ):
        return f"⨍{word}"
    if function and word in ("Φ", "φ") and "Φ" in known.functions:
        return "⨍normal_cdf" if word == "Φ" else "⨍normal_pdf"
    if GENERIC.fullmatch(word) and function and (primed or word not in known.bare):
        return f"⨍{word}"
    quotient = LOCAL.fullmatch(word)
    if quotient and {*quotient.groups()} <= {*known.letters, *known.words}:
        return f"∂{quotient[1]}/∂{quotient[2]}"
    if word == "de" and re.match(r"\s+[a-zà-ÿ]{2,}", rest):  # de la función
        return word
    short = re.fullmatch(r"(?:d|d_|D_|grad_?|gradient_|delta_|nabla_)(?=[A-Za-zͰ-Ͽ])(\w+)|(\w+?)_grad(?:ient)?", word)
    inner = next(g for g in short.groups() if g) if short else ""
    if inner and inner.swapcase() in known.letters | known.words and inner not in known.letters | known.words:
        inner = inner.swapcase()  # grad_w2, of W2
    plainly = word[:4] in ("grad", "nabl") or "_grad" in word or (word[:2] == "d_" and inner not in INDEX)
    if plainly and (inner in known.words or inner in known.letters):
        return f"∂{inner}"
    if known.bars and word.endswith("bar"):
        return f"∂{word[:-3]}"
    if SINGLE.fullmatch(word) or _is_name(word):
        return word
    if inner and (inner in known.words or SINGLE.fullmatch(inner) or _is_name(inner)):
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
        SINGLE.fullmatch(word)
        or word in known.words
        or ((step := counter(word)) is not None and step[0] in known.words)
        or word in KEYWORDS
        or (word.lower() in ELEMENTWISE and word != "where")
        or _is_name(word)
        or word == "axis"
    )
