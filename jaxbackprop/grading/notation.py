"""One side of an equation, as people write it: plain text, Unicode or LaTeX, into an `Expr`.

    raw text --plain()--> one notation --parse()--> Expr

`plain` turns LaTeX and Unicode into the one notation that the grammar below describes; `parse` reads that. Nothing is
executed, every step is bounded, and what cannot be read becomes an `Unread` that says why.
"""

import re
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from jaxbackprop.grading.formula import ONE, OTHERWISE, ZERO, Expr, depth, name, nodes, number

if TYPE_CHECKING:
    from lark import Lark

MAX_PIECE = 1_000  # characters in one side of an equation
MAX_DEPTH = 40  # levels in one formula
MAX_NODES = 150  # symbols and operations in one formula

# --- the grammar -----------------------------------------------------------------------------------------------------

GREEK = "theta|alpha|beta|gamma|lambda|mu|eta|epsilon|delta|rho|omega"
NAME = rf"(?:y_?hat|y_?pred|loss|{GREEK}|mask|bias|[A-Za-z])(?:\d+|(?![A-Za-z]))(?:_[A-Za-z0-9]+)*"
ELEMENTWISE = (
    "leaky_relu|leakyrelu|relu|tanh|sigmoid|sigma|logistic|expit|softplus|silu|swish|gelu_tanh|gelu|elu|exp|log|ln|sin|cos"
    "|sqrt|abs|sign|step|heaviside|identity|linear|id|diag"
)
OTHERS = "maximum|minimum|max|min|where|outer|transpose|sum"
GENERIC = r"(?:varphi|phi|psi|act|[gf])(?:_?\d+)?"

GRAMMAR = rf"""
?start: expression
      | branch ("," branch)*                              -> cases

?expression: hadamards
      | hadamards IF condition OTHERWISE expression       -> choice
?hadamards: sum
      | hadamards "⊙" sum                                 -> hadamard_sum
?sum: term
      | sum "+" term                                      -> add
      | sum "-" term                                      -> subtract
?term: product
      | term "⊙" product                                  -> hadamard
      | term "⊗" product                                  -> outer
?product: signed
      | product "*" signed                                -> multiply
      | product power                                     -> multiply
      | product "@" signed                                -> matmul
      | product "/" signed                                -> divide
?signed: power
      | "-" signed                                        -> negative
      | "+" signed
?power: factor
      | factor "^" signed                                 -> raised
?factor: atom
      | factor TRANSPOSE                                  -> transpose
?atom: NUMBER                                             -> number
      | NAME                                              -> variable
      | DERIVATIVE                                        -> derivative
      | "∂" "(" expression ")" "/" BOTTOM                 -> partial
      | FUNCTION "(" arguments ")"                        -> call
      | FUNCTION "^" NUMBER "(" arguments ")"             -> call_raised
      | FUNCTION NAME                                     -> call_bare
      | "(" expression ")"
      | "[" expression "]"
      | "(" condition ")"                                 -> indicator
      | "[" condition "]"                                 -> indicator
      | "{{" condition "}}"                               -> indicator
      | "{{" expression "}}"
      | "{{" branch ((";" | ",") branch)* (";" | ",")? "}}" -> cases

arguments: argument ("," argument)*
?argument: expression | condition -> indicator

branch: hadamards guard
?guard: "," condition
      | IF condition                                      -> second
      | OTHERWISE
?condition: comparison
      | condition "and" comparison                        -> both
comparison: hadamards SIGN hadamards
      | hadamards SIGN hadamards SIGN hadamards

SIGN: ">=" | "<=" | "==" | "!=" | ">" | "<"
IF.6: /(?:if|for|when)\b/
OTHERWISE.6: /(?:otherwise|else|elsewhere)\b/
NUMBER: /\d+(\.\d+)?([eE][+-]?\d+)?|\.\d+/
TRANSPOSE.4: /\^\s*T(?![A-Za-z0-9])|\.T(?![A-Za-z0-9])/
DERIVATIVE.5: /[d∂]\s*(?:{NAME})\s*\/\s*[d∂]\s*(?:{NAME})/
BOTTOM.5: /[d∂]\s*(?:{NAME})/
FUNCTION.3: /(?:{ELEMENTWISE}|{OTHERS}|{GENERIC})(?![A-Za-z0-9_])'*(?=\s*[(^]|\s+[A-Za-z])/
NAME.1: /d?(?:{NAME})/
%ignore /\s+/
"""

SYNONYMS = {
    "leakyrelu": "leaky_relu",
    "sigma": "sigmoid",
    "logistic": "sigmoid",
    "expit": "sigmoid",
    "swish": "silu",
    "ln": "log",
    "heaviside": "step",
    "linear": "identity",
    "id": "identity",
}
LOSSES = ("L", "J", "E", "C", "l", "loss")


class Unread(NamedTuple):
    """A piece that could not be read, and why."""

    reason: str


@cache
def _parser() -> "Lark":
    from lark import Lark  # an extra

    build = _Build()
    rules = {rule: _of_parts(getattr(build, rule)) for rule in vars(_Build) if not rule.startswith("_")}
    options = {"parser": "lalr", "lexer": "contextual", "maybe_placeholders": False}
    return Lark(GRAMMAR, transformer=SimpleNamespace(**rules), **options)


def _of_parts(rule: Callable) -> Callable:
    return lambda parts: rule(*parts)  # lark gives a list


def canonical(text: str) -> str:
    """One spelling for a variable: Z_1 is z1, h_o is h0, y_hat is yhat, w_{yhat, h0} is w_yhat_h0.

    >>> [canonical(t) for t in ("Z_1", "h_o", "y_hat", "w_yhat_h_0", "L")]
    ['z1', 'h0', 'yhat', 'w_yhat_h0', 'L']
    """
    if text in ("L", "J", "loss"):
        return "L"
    text = re.sub(r"^([zhawbg])_?o(?![a-z])", r"\g<1>0", text.lower())
    text = re.sub(r"^y_?(hat|pred)", "yhat", text)
    return re.sub(r"(?<=[a-z])_(?=\d)", "", text)


class _Build:
    """From the grammar's rules to `Expr`, while parsing."""

    def number(self, token):
        return number(float(token))

    def variable(self, token):
        # dz1 is short for dL/dz1; "dL_dz1" is how a program spells it
        spelled = re.sub(r"^dL_?(?=d[A-Za-z])", "", str(token))
        if len(spelled) > 1 and spelled[0] == "d" and spelled[1].isalpha() and not spelled.startswith("delta"):
            return Expr("derivative", ("L", canonical(spelled[1:])))
        return name(canonical(spelled))

    def derivative(self, token):
        top, bottom = (re.sub(r"^\s*[d∂]\s*", "", part).strip() for part in token.split("/"))
        return Expr("derivative", ("L" if top in LOSSES else canonical(top), canonical(bottom)))

    def partial(self, body, bottom):
        return Expr("partial", (body, canonical(re.sub(r"^[d∂]\s*", "", bottom))))

    def arguments(self, *given):
        return given

    def call(self, token, given):
        function = token.rstrip("'")
        primes = len(token) - len(function)
        function = SYNONYMS.get(function.lower(), canonical(function))
        match function, given:
            case ("where", (Expr(op="cases", args=(guard, *_)), yes, no)):
                return Expr("cases", (guard, yes, OTHERWISE, no))
            case (("max" | "maximum"), (a, b)) if not primes:
                if ZERO in (a, b):
                    return Expr("call", ("relu", 0, b if a == ZERO else a))
                return Expr("cases", (Expr("compare", (">=", a, b)), a, OTHERWISE, b))
            case (("min" | "minimum"), (a, b)) if not primes:
                return Expr("cases", (Expr("compare", ("<=", a, b)), a, OTHERWISE, b))
            case ("step", (a, at_zero)):
                zero = Expr("compare", ("==", a, ZERO))
                return Expr("cases", (zero, at_zero, Expr("compare", (">", a, ZERO)), ONE, OTHERWISE, ZERO))
            case ("outer", (a, b)):
                return Expr("outer", (a, b))
            case ("transpose", (a,)):
                return Expr("transpose", (a,))
            case (_, (a,)) if function not in ("where", "max", "maximum", "min", "minimum", "outer"):
                return Expr("call", (function, primes, a))
        raise ValueError(f"{token} does not take {len(given)} arguments")

    def call_raised(self, token, power, given):
        return Expr("^", (self.call(token, given), number(float(power))))

    def call_bare(self, token, argument):
        return self.call(token, (self.variable(argument),))

    def indicator(self, guard):
        return Expr("cases", (guard, ONE, OTHERWISE, ZERO))

    def cases(self, *branches):
        return Expr("cases", tuple(x for value, guard in branches for x in (guard, value)))

    def second(self, _, guard):
        return guard

    def choice(self, yes, _if, guard, _else, no):
        return Expr("cases", (guard, yes, OTHERWISE, no))

    def branch(self, value, guard):
        return value, guard if isinstance(guard, Expr) else OTHERWISE

    def comparison(self, a, sign, b, *more):
        first = Expr("compare", (str(sign), a, b))
        return Expr("and", (first, Expr("compare", (str(more[0]), b, more[1])))) if more else first

    def both(self, a, b):
        return Expr("and", (a, b))

    def add(self, a, b):
        return Expr("+", (*(a.args if a.op == "+" else (a,)), b))

    def subtract(self, a, b):
        return self.add(a, Expr("negative", (b,)))

    def multiply(self, a, b):
        if b.op == "cases" and a == ONE:  # 1{z >= 0}
            return b
        if b.op == "cases" and a.op == "product" and a.args[-1] == ONE:
            return Expr("product", (*a.args[:-1], b))
        return Expr("product", (*(a.args if a.op == "product" else (a,)), b))

    def hadamard_sum(self, a, b):
        return Expr("hadamard", (a, b))

    def hadamard(self, a, b):
        return Expr("hadamard", (a, b))

    def outer(self, a, b):
        return Expr("outer", (a, b))

    def matmul(self, a, b):
        return Expr("matmul", (a, b))

    def divide(self, a, b):
        return Expr("/", (a, b))

    def raised(self, a, b):
        if a == name("e"):
            return Expr("call", ("exp", 0, b))
        return Expr("^", (a, b))

    def negative(self, a):
        return Expr("negative", (a,))

    def transpose(self, a, _):
        return Expr("transpose", (a,))


def parse(text: str) -> Expr | Unread:
    """Read one side of an equation that is already in the grammar's notation."""
    if len(text) > MAX_PIECE:
        return Unread(f"one side of the equation has {len(text)} characters; at most {MAX_PIECE} are read")
    if not text.strip():
        return Unread("nothing stands on one side of the equation")
    from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

    try:
        expr = _parser().parse(text)
    except UnexpectedCharacters as error:
        return Unread(f"cannot read {_excerpt(text, error.pos_in_stream or 0)!r}")
    except UnexpectedToken as error:
        if error.token.type == "$END":
            return Unread(f"{_excerpt(text, 0)!r} breaks off")
        return Unread(f"cannot read {_excerpt(text, error.token.start_pos or 0)!r}")
    except (LarkError, UnexpectedInput, ValueError) as error:
        return Unread(f"cannot read {_excerpt(text, 0)!r}: {_first_line(error)}")
    if not isinstance(expr, Expr):
        return Unread(f"cannot read {_excerpt(text, 0)!r}")
    if depth(expr) > MAX_DEPTH:
        return Unread(f"the formula is nested more than {MAX_DEPTH} levels deep")
    if sum(1 for _ in nodes(expr)) > MAX_NODES:
        return Unread(f"the formula has more than {MAX_NODES} symbols and operations")
    return expr


def _excerpt(text: str, start: int) -> str:
    return text[start : start + 30].strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__


# --- one notation ----------------------------------------------------------------------------------------------------

_CHARACTERS = str.maketrans(
    {
        **{chr(0x2080 + d): f"_{d}" for d in range(10)},
        **{c: f"^{d}" for d, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **dict.fromkeys("·∙⋅×∗•", "*"),
        **dict.fromkeys("∘◦∗⨀", "⊙"),
        **dict.fromkeys("−–—‒", "-"),
        **dict.fromkeys("∕⁄÷", "/"),
        **dict.fromkeys("≥⩾≧", ">="),
        **dict.fromkeys("≤⩽≦", "<="),
        **dict.fromkeys("′’ʹ‘`´", "'"),
        **dict.fromkeys("𝜕𝛛𝝏", "∂"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2003\u2002\u200b\ufeff\t\r\x00", " "),
        **{"≠": "!=", "ᵀ": "^T", "⊤": "^T", "ŷ": " yhat ", "½": "(1/2)", "¼": "(1/4)", "″": "''", "ᵒ": "0", "ₒ": "_0"},
        **{
            "σ": " sigmoid ",
            "φ": " phi ",
            "ϕ": " phi ",
            "ψ": " psi ",
            "θ": " theta ",
            "δ": " delta",
            "Θ": "step",
            "𝟙": "1",
        },
        **{"α": " alpha ", "β": " beta ", "γ": " gamma ", "λ": " lambda ", "μ": " mu ", "η": " eta ", "ε": " epsilon "},
        **dict.fromkeys("ℓℒ", "L"),
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
    **{"prime": "'", "ell": "L", "varphi": " phi ", "sigma": " sigmoid ", "Theta": " step", "nabla": "∇"},
    **{f: f" {f}" for f in ("tanh", "exp", "ln", "log", "sin", "cos", "max", "min", "sqrt")},
    **{g: f" {g}" for g in f"{GREEK}|phi|psi".split("|")},
    **dict.fromkeys(
        ("left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "bigg", "Bigg", "displaystyle"), ""
    ),
    **dict.fromkeys(
        ("limits", "nonumber", "notag", "downarrow", "uparrow", "swarrow", "searrow", "hookrightarrow"), ""
    ),
    "sum": " sum ",
    **{"quad": " , ", "qquad": " , ", "boxed": "", "fbox": "", "colon": ":"},
    **dict.fromkeys(("mathrm", "mathbf", "mathit", "mathsf", "mathcal", "boldsymbol", "bm", "vec", "operatorname"), ""),
}
_WORDS = re.compile(rf"(?:{ELEMENTWISE}|{GENERIC}|if|for|when|and|otherwise|else|elsewhere|T|{NAME})\b")
_DERIVATIVE_TOP = re.compile(rf"\s*[d∂]\s*({NAME})\s*")
_DERIVATIVE_BOTTOM = re.compile(rf"\s*[d∂]\s*({NAME})\s*")


def plain(raw: str) -> str:
    r"""Turn LaTeX and Unicode into the notation of the grammar.

    >>> plain(r"\frac{\partial L}{\partial \hat{y}} \cdot w_2")
    '∂L/∂yhat * w_2'
    >>> plain("∂L/∂h₁ · [z₁ ≥ 0]")
    '∂L/∂h_1 * [z_1 >= 0]'
    """
    text = re.sub("y\u0302", " yhat ", raw)
    text = re.sub("[\u2460-\u24ff\u2776-\u2793]", " ", text).translate(_CHARACTERS)  # circled numbers only label
    text = re.sub(
        r"(?:\\\||\|\||‖|\\lVert|\\rVert)([^|‖]*?)(?:\\\||\|\||‖|\\rVert)(?:_2|_\{2\})?\s*\^\{?2\}?",
        r" sum((\1)^2)",
        text,
    )
    text = _latex(text)
    text = re.sub(r"\*\*", "^", text)
    text = re.sub(r"\b(?:np|jnp|numpy|torch|math|nn|F|jax)\.(?=[a-zA-Z])", "", text)
    text = re.sub(r"\.(?:astype\(\w+\)|float\(\))", "", text)
    text = re.sub(r"(?<![A-Za-z0-9_])I\s*(?=[\[({])|(?<![A-Za-z0-9_.])1_(?=[\[({])", "1 ", text)  # the indicator
    text = re.sub(r"(?<![A-Za-z0-9_])[Hu](?=\()", "step", text)
    text = re.sub(r"(?i)\b(relu|tanh|sigmoid|leaky_?relu|softplus|elu|silu)\b", lambda m: m[1].lower(), text)
    text = re.sub(
        r"(?i)\b(?:d|grad_?)_?(relu|tanh|sigmoid)\s*(?=\()|\b(relu|tanh|sigmoid|g)_(?:prime|grad|deriv)\b",
        _primed,
        text,
    )
    text = re.sub(r"\s+(?='+\s*\()", "", text)
    text = re.sub(r"('+)_?(\d+)(?=\s*\()", r"_\2\1", text)  # g'_1 is g_1'
    text = re.sub(rf"([d∂])\s*({GENERIC}|{ELEMENTWISE})(?:\s*\(\s*({NAME})\s*\))?\s*/\s*[d∂]\s*({NAME})", _slope, text)
    text = re.sub(r"(?<![A-Za-z0-9_])d\s*(?=\()", "∂", text)
    text = re.sub(rf"∇_?\(?({NAME})\)?\s*L\b", r"∂L/∂\1", text)
    text = re.sub(r"\band\s+(?=[\w.]+\s+(?:otherwise|else|if|for|when)\b)", ", ", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r",\s*(?=(?:if|for|when|else|otherwise|elsewhere)\b)", " ", text)
    text = re.sub(r"\b(if|for|when)\s+(else|otherwise|elsewhere)\b", r"\2", text)
    text = re.sub(r"\b(else|otherwise|elsewhere)\s*[.:,]", r"\1", text)
    text = re.sub(r"(?<=\s)\.(?=\s)", "*", text)  # w1 . h0
    return re.sub(r"\s+", " ", text).strip(" ,;.:")


def _primed(match: re.Match) -> str:
    return f"{(match[1] or match[2]).lower()}'"


def _slope(match: re.Match) -> str:
    """dg(z1)/dz1 is g'(z1)."""
    _, function, inside, variable = match.groups()
    return f" {function}'({variable}) " if inside in (None, variable) else match[0]


def _latex(text: str) -> str:
    """Resolve commands, then braces from the inside out; what is left over stays, and will be reported."""
    text = re.sub(r"\\left\s*\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?|\\begin\{(?:cases|rcases|dcases)\}", "⟦", text)
    text = re.sub(r"\\end\{array\}\s*\\right\s*\.|\\end\{(?:cases|rcases|dcases)\}", "⟧", text)
    if "⟦" in text:
        text = re.sub(r"⟦[^⟦⟧]*⟧", lambda m: m[0].replace("&", ",").replace("\\\\", ";"), text)
    text = text.replace("\\{", "⟦").replace("\\}", "⟧")
    text = re.sub(r"\\[,;:!> ]|~|&", " ", text)
    text = re.sub(r"\\(?:textcircled|tag|label|ref)\*?\s*(?:\{[^{}]*\}|\d)", " ", text)
    text = re.sub(r"\\(?:text|textrm|textbf|textit|mbox|mathrm|operatorname)\*?\s*\{([^{}]*)\}", _known_words, text)
    text = re.sub(r"\\mathb[bf]m?\s*\{\s*([1I])\s*\}", "1", text)
    text = re.sub(r"\\(?:wide)?hat\s*(?:\{\s*y\s*\}|\s*y(?![A-Za-z]))", " yhat ", text)
    text = re.sub(r"\\([dt]?frac)\s*(\d)\s*(\d)", r"(\2/\3)", text)
    text = re.sub(r"\\[dt]?frac(?![A-Za-z])", "⁄", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _COMMANDS.get(m[1], m[0]), text)
    for _ in range(MAX_DEPTH):  # each pass resolves the innermost braces
        before = text
        text = re.sub(r"_\s*\{([^{}]*)\}", _subscript, text)
        text = re.sub(r"\^\s*\{([^{}]*)\}", _superscript, text)
        text = re.sub(r"⁄\s*\{([^{}]*)\}\s*\{([^{}]*)\}", _fraction, text)
        # a brace that an operator awaits is left to the next pass; any other groups, or is a case distinction
        text = re.sub(r"(?<![_^⁄}])(?<![_^⁄}]\s)\{([^{}]*)\}(?!\s*\{)", _group, text)
        if text == before:
            break
    text = re.sub(r"\^\s*(?:\*|')", lambda m: "'" if "'" in m[0] else "", text)
    return text.replace("⟦", "{").replace("⟧", "}")


def _known_words(match: re.Match) -> str:
    r"""Of the words inside a \\text, those that mathematics knows."""
    words = re.findall(r"[^\s]+", match[1])
    cleaned = [w.strip(".,:;") for w in words]
    return " " + " ".join(w for w in cleaned if _WORDS.fullmatch(w) or w.lower() == "relu" or w in "<>=") + " "


def _subscript(match: re.Match) -> str:
    inside = match[1].strip()
    if re.search(r"[<>=]", inside):
        return f"⟦{inside}⟧"  # 1_{z1 >= 0}
    return "_" + re.sub(r"[\s,()\[\]]+", "_", inside).strip("_") + " "


def _superscript(match: re.Match) -> str:
    inside = match[1].strip()
    layer = re.fullmatch(r"[\[(]\s*(\d+)\s*[\])]\s*(T?)", inside)  # a^{[1]}, W^{(2)T}
    if layer:
        return f"_{layer[1]} " + ("^T " if layer[2] else "")
    if inside in ("", "*"):
        return ""
    if set(inside) <= {"'"}:
        return inside
    return "^T " if inside == "T" else f"^({inside})"


def _fraction(match: re.Match) -> str:
    top, bottom = match[1], match[2]
    below = _DERIVATIVE_BOTTOM.fullmatch(bottom)
    above = _DERIVATIVE_TOP.fullmatch(top)
    if above and below:
        return f" ∂{above[1]}/∂{below[1]} "
    whole = re.fullmatch(r"\s*[d∂]\s*(\S.*)", top)
    if whole and below:
        call = re.fullmatch(rf"({GENERIC}|{ELEMENTWISE})\s*\(\s*{re.escape(below[1])}\s*\)\s*", whole[1])
        return f" {call[1]}'({below[1]}) " if call else f" ∂({whole[1]})/∂{below[1]} "
    return f"(({top})/({bottom}))"


def _group(match: re.Match) -> str:
    inside = match[1]
    return f"⟦{inside}⟧" if re.search(r"[<>]|otherwise|else", inside) else f"({inside})"
