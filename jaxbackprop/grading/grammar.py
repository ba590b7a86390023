"""One side of an equation, in the one notation that `notation.plain` writes, into an `Expr`.

Names, functions and sums are marked by then: ⨍log is a function, w⟨ji⟩ a name with index letters, Σ⟨k⟩ a sum over k,
∂L/∂z1 a derivative. Nothing is executed, every step is bounded, and what cannot be read becomes an `Unread`.
"""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from jaxbackprop.grading.expression import ONE, OTHERWISE, ZERO, Expr, Variable, depth, name, names, number, size

if TYPE_CHECKING:
    from lark import Lark

MAX_PIECE = 1_000  # characters in one side of an equation
MAX_DEPTH = 40  # levels in one formula
MAX_NODES = 150  # symbols and operations in one formula

LETTER = "A-Za-zͰ-\u03a2\u03a4-Ͽℓℯ"  # Σ is a sum
WORD = rf"[{LETTER}][{LETTER}0-9_]*²?"
NAME = rf"{WORD}(?:⟨[a-z]+⟩)?"

GRAMMAR = rf"""
?start: expression
      | branch ("," branch)*                              -> cases

?expression: hadamards
      | hadamards IF condition OTHERWISE expression       -> choice
?hadamards: sum
      | hadamards "⊙" sum                                 -> hadamard
?sum: term
      | sum "+" term                                      -> add
      | sum "-" term                                      -> subtract
?term: product
      | term "⊙" product                                  -> hadamard
      | term "⊗" product                                  -> outer
?product: signed
      | big
      | product "*" signed                                -> multiply
      | product "⋆" signed                                -> hadamard
      | product "⋆" big                                   -> hadamard
      | product power                                     -> beside
      | product ONES                                      -> row_sums
      | product BY power                                  -> multiply_by
      | product "*" big                                   -> multiply
      | product big                                       -> multiply
      | product "@" signed                                -> matmul
      | product "/" signed                                -> divide
      | product "/" big                                   -> divide
big: BIG term                                             -> big
?signed: power
      | BY power                                          -> partial_by
      | "-" signed                                        -> negative
      | "-" big                                           -> negative
      | "+" signed
?power: factor
      | factor "^" signed                                 -> raised
?factor: atom
      | factor TRANSPOSE                                  -> transpose
      | factor METHOD "(" arguments ")"                   -> method
      | factor METHOD "(" ")"                             -> method
?atom: NUMBER                                             -> number
      | NAME                                              -> variable
      | SHORT                                             -> short
      | PRIMED                                            -> primed
      | DERIVATIVE                                        -> derivative
      | SECOND                                            -> second_derivative
      | DELTA                                             -> delta
      | "∂" "(" expression ")" "/" BOTTOM                 -> partial
      | CALL "(" arguments ")"                            -> call
      | FUNCTION "^" NUMBER "(" arguments ")"             -> call_raised
      | FUNCTION power                                    -> call_bare
      | FUNCTION big                                      -> call_bare
      | "(" expression ")"
      | "[" expression "]"
      | "(" condition ")"                                 -> indicator
      | "[" condition "]"                                 -> indicator
      | "{{" condition "}}"                               -> indicator
      | "{{" expression "}}"
      | "{{" branch ((";" | ",") branch)* (";" | ",")? "}}" -> cases

arguments: argument ("," argument)*
?argument: expression | AXIS -> axis | condition -> indicator

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
ONES.6: /1(?=\s*(?:$|[-+)]))/
NUMBER: /\d+(\.\d+)?([eE][+-]?\d+(?![A-Za-z0-9]))?|\.\d+/
AXIS.6: /axis:-?\d/
TRANSPOSE.4: /\^\s*T(?![A-Za-z0-9_])|\.T(?![A-Za-z0-9_])/
METHOD.4: /\.(?:sum|mean|max|min|var|std|dot|exp|log|sqrt|abs|square|pow|tanh|sigmoid|relu|softmax|log_softmax)(?=\s*\()/
DERIVATIVE.5: /∂\s*(?:{NAME})\s*\/\s*∂\s*(?:{NAME})/
SECOND.6: /∂²\s*(?:{NAME})\s*\/\s*∂\s*(?:{NAME})\s*∂\s*(?:{NAME})/
PRIMED.5: /(?:{NAME})'(?!'|\s*\()/
SHORT.5: /∂(?:{NAME})(?!\s*\/\s*∂)/
BY.5: /∂\s*\/\s*∂\s*(?:{NAME})/
BOTTOM.5: /∂\s*(?:{NAME})/
DELTA.5: /δ⟨[a-z]{{2}}⟩/
BIG.5: /Σ(?:⟨[a-z]+(?::[A-Za-z0-9_]+)?⟩)?/
CALL.6: /⨍{WORD}'*(?=\s*\()/
FUNCTION.5: /⨍{WORD}'*(?!\s*\()/
NAME.1: /{NAME}/
%ignore /\s+/
"""

SYNONYMS = {
    "leakyrelu": "leaky_relu", "sigma": "sigmoid", "logistic": "sigmoid", "expit": "sigmoid", "swish": "silu", "ln": "log",
    "heaviside": "step", "linear": "identity", "id": "identity", "maximum": "max", "minimum": "min",
    "lse": "logsumexp", "trace": "tr",
}  # fmt: skip
REDUCTIONS = ("sum", "pick", "mean", "norm", "tr", "logsumexp", "softmax", "log_softmax", "diag", "vec", "std", "var")


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


def variable_of(token: str) -> Variable:
    """w⟨ji⟩ as ("w", ("j", "i"))."""
    text, _, letters = token.strip().lstrip("∂").strip().partition("⟨")
    return text, tuple(letters.rstrip("⟩"))


class _Build:
    """From the grammar's rules to `Expr`, while parsing."""

    def number(self, token):
        decimals = len(token.partition(".")[2]) if token.replace(".", "").isdigit() and "." in token else 0
        return number(float(token), 10.0**-decimals if decimals else 0.0)

    def variable(self, token):
        return Expr("name", variable_of(token))

    def short(self, token):
        return Expr("derivative", (("", ()), variable_of(token)))

    def primed(self, token):
        return Expr("derivative", (variable_of(token[:-1]), ("", ())))  # by what, its definition says

    def derivative(self, token):
        top, bottom = token.split("/")
        return Expr("derivative", (variable_of(top), variable_of(bottom)))

    def second_derivative(self, token):
        top, bottom = token.replace("²", "").split("/")
        _, one, two = bottom.split("∂")
        return Expr("second", (variable_of(top), variable_of(one), variable_of(two)))

    def delta(self, token):
        return Expr("delta", (token[2], token[3]))

    def partial(self, body, bottom):
        if body.op == "name":  # d/dw L
            return Expr("derivative", (body.args, variable_of(bottom)))
        if body.op == "derivative":
            return Expr("second", (*body.args, variable_of(bottom)))
        return Expr("partial", (body, variable_of(bottom)))

    def partial_by(self, by, body):
        return self.partial(body, by.split("/")[1])

    def multiply_by(self, a, by, body):
        return self.multiply(a, self.partial_by(by, body))

    def axis(self, token):
        return int(token.partition(":")[2])

    def arguments(self, *given):
        return given

    def big(self, token, body):
        letters, _, bound = token[2:-1].partition(":")
        return Expr("sum", (tuple(letters), body, bound)) if letters else Expr("reduce", ("sum", None, body))

    def method(self, body, token, given=()):
        if token == ".dot" and len(given) == 1 and isinstance(given[0], Expr):
            return Expr("matmul", (body, *given))
        return self.call("⨍" + token[1:], (body, *given))

    def call(self, token, given):
        spelled = token[1:].rstrip("'")
        primes = len(token) - 1 - len(spelled)
        function = SYNONYMS.get(spelled.lower(), spelled.lower() if spelled.isascii() and len(spelled) > 2 else spelled)
        axis = next((a for a in given if isinstance(a, int)), None)
        given = tuple(a for a in given if isinstance(a, Expr))
        built = self._structural(function, given, axis) if not primes else None
        if built is None and given and axis is None:
            built = Expr("call", (function, primes, *given))
        if built is None:
            raise ValueError(f"{spelled} does not take {len(given)} arguments")
        return built

    def _structural(self, function, given, axis):
        """Functions that are operations of their own."""
        match function, given:
            case (("sum" | "npsum"), (Expr(op="sum"),)):
                return None
            case (("max" | "min"), (a, b)) if axis is None:
                if function == "max" and ZERO in (a, b):
                    return Expr("call", ("relu", 0, b if a == ZERO else a))
                sign = ">=" if function == "max" else "<="
                return Expr("cases", (Expr("compare", (sign, a, b)), a, OTHERWISE, b))
            case ("where", (Expr(op="cases", args=(guard, *_)), yes, no)):
                return Expr("cases", (guard, yes, OTHERWISE, no))
            case ("step", (a, at_zero)):
                zero = Expr("compare", ("==", a, ZERO))
                return Expr("cases", (zero, at_zero, Expr("compare", (">", a, ZERO)), ONE, OTHERWISE, ZERO))
            case (("outer" | "kron" | "matmul"), (a, b)):
                return Expr(function, (a, b))
            case (("power" | "pow"), (a, b)):
                return Expr("^", (a, b))
            case "ce", (y, p):  # the cross-entropy
                terms = Expr("hadamard", (y, Expr("call", ("log", 0, p))))
                return Expr("negative", (Expr("reduce", ("sum", None, terms)),))
            case ("logaddexp", (a, b)):
                return Expr("call", ("log", 0, Expr("+", (Expr("call", ("exp", 0, a)), Expr("call", ("exp", 0, b))))))
            case (("rowsum" | "colsum"), (a,)):
                return Expr("reduce", ("sum", 1 if function == "rowsum" else 0, a))
            case ("dot", (a, b)):
                return Expr("matmul", (a, b))
            case ("multiply", (a, b)):
                return Expr("hadamard", (a, b))
            case ("transpose", (a,)):
                return Expr("transpose", (a,))
            case (("square" | "exp"), (a,)):
                return Expr("^", (a, number(2))) if function == "square" else None
            case "tr", (Expr("^", (a, power)),) if power == number(2):
                return Expr("reduce", ("tr", axis, Expr("product", (a, a))))
            case (_, (a,)) if function in (*REDUCTIONS, "npsum", "max", "min"):
                return Expr("reduce", (function, axis, a))
        return None

    def call_raised(self, token, power, given):
        return Expr("^", (self.call(token, given), number(float(power))))

    def call_bare(self, token, argument):
        return self.call(token, (argument,))

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
        if sign in ("==", "!=") and all(x.op == "name" and x.args[0] in {*"ijklmnc"} and not x.args[1] for x in (a, b)):
            a, b = Expr("delta", (a.args[0], b.args[0])), ONE  # of indices
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
        if a.op == "partial" and not names(a.args[0]):  # d/dw ½ (z - y)^2: of the whole product
            return Expr("partial", (self.multiply(a.args[0], b), a.args[1]))
        if b.op == "cases" and a.op == "product" and a.args[-1] == ONE:
            return Expr("product", (*a.args[:-1], b))
        return Expr("product", (*(a.args if a.op == "product" else (a,)), b))

    def beside(self, a, b):
        if a.op == "/" and a.args[1].op == "transpose":  # a / x^T x: nothing is divided by x^T
            return Expr("/", (a.args[0], self.multiply(a.args[1], b)))
        if a == Expr("transpose", (ONE,)):  # 1^T Z
            return Expr("reduce", ("sum", 0, b))
        return self.multiply(a, b)

    def row_sums(self, a, _):
        return Expr("reduce", ("sum", 1, a))  # Z 1

    def hadamard(self, a, b):
        return Expr("hadamard", (a, b))

    def outer(self, a, b):
        return Expr("outer", (a, b))

    def matmul(self, a, b):
        return Expr("matmul", (a, b))

    def divide(self, a, b):
        return Expr("/", (a, b))

    def raised(self, a, b):
        return Expr("call", ("exp", 0, b)) if a == name("ℯ") else Expr("^", (a, b))

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
    from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedToken

    try:
        expr = _parser().parse(text)
    except UnexpectedCharacters as error:
        return Unread(f"cannot read {_excerpt(text, error.pos_in_stream or 0)!r}")
    except UnexpectedToken as error:
        if error.token.type == "$END":
            return Unread(f"{_excerpt(text, 0)!r} breaks off")
        return Unread(f"cannot read {_excerpt(text, error.token.start_pos or 0)!r}")
    except (LarkError, ValueError, TypeError) as error:
        return Unread(f"cannot read {_excerpt(text, 0)!r}: {_first_line(error)}")
    if not isinstance(expr, Expr):
        return Unread(f"cannot read {_excerpt(text, 0)!r}")
    if depth(expr) > MAX_DEPTH:
        return Unread(f"the formula is nested more than {MAX_DEPTH} levels deep")
    if size(expr) > MAX_NODES:
        return Unread(f"the formula has more than {MAX_NODES} symbols and operations")
    return expr


def _excerpt(text: str, start: int) -> str:
    return text[start : start + 30].strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
