"""A formula in plain text as LaTeX writes it: `w1ᵀ dz1 + ½ (yhat − y)²`, `dL/dh0 * sigmoid'(z0)`."""

from __future__ import annotations

import codecs
import re
import unicodedata

NAME = "[A-Za-zͰ-Ͽ][A-Za-zͰ-Ͽ0-9]*(?:_[A-Za-zͰ-Ͽ0-9_]+(?:,[A-Za-zͰ-Ͽ0-9_]+)*)?"
TOKEN = re.compile(
    rf"d(?P<top>{NAME})/d(?P<bottom>{NAME})|(?P<number>\d+(?:\.\d+)?(?:e[-−+]?\d+)?)|\^(?P<power>-?\w+)|"
    rf"(?P<name>{NAME})(?P<called>'*(?=\())?|(?P<product>(?<=[\w)}}'ᵀ²½]) (?=[\w(‖½]))|(?P<times> \* (?!\d))|(?P<sign>>=|<=|.)",
    re.DOTALL,
)
KNOWN = ("log", "exp", "max", "min", "tanh", "sin", "cos", "det")  # functions that LaTeX has a name for
SIGNS = {
    "−": "-", "½": r"\tfrac12 ", "*": r" \cdot ", "·": r" \cdot ", "@": r"\,", "⊙": r" \odot ", "⊗": r" \otimes ",
    "×": r" \times ", "‖": r"\Vert ", "|": r"\vert ", "∂": r"\partial ", "√": r"\surd ", ">=": r" \ge ", "<=": r" \le ",
    "{": r"\{", "}": r"\}", "\\": r"\backslash ", "~": r"\sim ", "^": r"\wedge ", "…": r"\dots ", "→": r"\to ",
}  # fmt: skip


class Maths(str):
    r"""A formula in plain text; `tex` is the same in LaTeX.

    >>> print(Maths("dh0 = w1ᵀ dz1 · g'(z0)").tex)
    \mathrm{d}h_{0} = w_{1}^{\top}\,\mathrm{d}z_{1}  \cdot  g'(z_{0})
    """

    __slots__ = ()

    @property
    def tex(self) -> str:
        """In LaTeX, of ASCII alone: it compiles whatever letters a name has."""
        text = self.replace("ᵀ", "^T").replace("²", "^2")
        return "".join(map(_tex, TOKEN.finditer(text)))


def _tex(token: re.Match) -> str:
    match token.lastgroup:
        case "bottom":
            return rf"\frac{{\partial {_name(token['top'])}}}{{\partial {_name(token['bottom'])}}}"
        case "number":
            mantissa, _, exponent = token["number"].partition("e")
            return mantissa + (rf" \cdot 10^{{{exponent.replace('−', '-').lstrip('+')}}}" if exponent else "")
        case "power":
            return r"^{\top}" if token["power"] == "T" else f"^{{{escaped(token['power'])}}}"
        case "name" | "called":
            name, called = token["name"], token["called"]
            if name in KNOWN:
                return f"\\{name} {called or ''}"
            if called is not None and len(name) > 1 and name.isascii() and "_" not in name:
                return rf"\operatorname{{{name}}}{called}"
            return _name(name) + (called or "")
        case "product" | "times":
            return r"\,"
    return SIGNS.get(token["sign"]) or escaped(token["sign"])


def _name(name: str) -> str:
    r"""A name: h0 has an index, dh0 is the adjoint of h0, W_h1,h0 the weight of an edge.

    >>> print(_name("dW_h1,x"), _name("yhat"), _name("net"), _name("σ"))
    \mathrm{d}W_{h_{1},x} \hat{y} \mathrm{net} \sigma
    """
    stem, index, below = re.fullmatch(r"([^\d_]+)(\d*)(.*)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if len(stem) > 1 and stem[0] == "d" and stem[1:] in (stem[1], "yhat"):
        return r"\mathrm{d}" + _name(name[1:])
    parts = [part for part in (index, *re.split(",", below.lstrip("_"))) if part]
    inside = ",".join(_name(part) if part[0].isalpha() else escaped(part) for part in parts)
    return _stem(stem) + (f"_{{{inside}}}" if inside else "")


def _stem(stem: str) -> str:
    if stem in ("yhat", "Σ"):
        return {"yhat": r"\hat{y}", "Σ": r"\sum"}[stem]
    if len(stem) == 1 and stem.isascii():
        return stem
    greek = unicodedata.name(stem, "").split() if len(stem) == 1 else []
    if greek[:1] == ["GREEK"] and greek[2] == "LETTER" and len(greek) == 4 and greek[3] != "OMICRON":
        return "\\" + (greek[3].lower() if greek[1] == "SMALL" else greek[3].title()).replace("amda", "ambda")
    return rf"\mathrm{{{escaped(stem)}}}"


def escaped(text: str) -> str:
    """Any text as LaTeX that compiles with nothing loaded: special characters escaped, others by their number."""
    special = {"\\": r"\backslash ", "~": r"\sim ", "^": r"\wedge ", "{": r"\{", "}": r"\}", "−": "-"}
    return "".join(
        special.get(c) or (f"\\{c}" if c in "&%$#_" else c if 32 <= ord(c) < 127 else f"[U{ord(c):X}]") for c in text
    )


# --- where only ASCII can be printed ---------------------------------------------------------------------------------

TYPED = "jaxbackprop.typed"  # how a codec treats what it cannot write: as people type it
KEYS = {
    "−": "-", "·": "*", "×": "x", "½": "1/2", "ᵀ": "^T", "²": "^2", "³": "^3", "‖": "||", "→": "->", "…": "...", "⊙": "(*)",
    "⊗": "(x)", "∂": "d", "Σ": "sum", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "–": "-", "—": "-", "✓": "+", "✗": "x",
    "↳": ">", "√": "sqrt", "∈": "in", "₀": "0", "₁": "1", "₂": "2", "∇": "grad",
}  # fmt: skip


def typed(text: str) -> str:
    """What has no key on a keyboard, as people type it.

    >>> typed("σ(z) = −½ ŵᵀ x²")
    'sigma(z) = -1/2 w^T x^2'
    """
    return "".join(c if c.isascii() else KEYS.get(c) or _keys(c) for c in text)


def _keys(character: str) -> str:
    if unicodedata.combining(character):
        return ""
    name = unicodedata.name(character, "").split()
    if len(name) == 4 and name[0] == "GREEK" and name[2] == "LETTER":
        return name[3].lower().replace("amda", "ambda")
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return typed(error.object[error.start : error.end]), error.end


codecs.register_error(TYPED, _handle)
