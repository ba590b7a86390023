# ruff: noqa: SIM905  (words, one after the other, are read more easily than as a list)
"""The words and letters that texts use, and how rules rewrite a text: `rewritten(text, rules)`."""

import re
from collections.abc import Callable
from typing import NamedTuple

INDEX = "ijklmnpqrsct0"  # letters that index; 0: an o below is a 0, as a scan reads it
ELEMENTWISE = frozenset(
    "leaky_relu leakyrelu relu tanh sigmoid logistic expit softplus silu swish gelu_tanh gelu elu exp log ln sin cos sinh cosh"
    " sqrt abs sign step heaviside identity linear softmax log_softmax logsumexp norm tr trace diag vec outer kron dot matmul"
    " where max min maximum minimum sum npsum mean std var square power pow transpose multiply ce pick rowsum colsum"
    " logaddexp".split()
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
EVERY = ("n", "m", "N", "M", "B", "batch", "Ν", "D", "d", "K", "H", "C")  # names for how many there are
LOSSES = tuple("L J E C ℓ l loss cost Loss Cost E_total E_n E_i L_i L_n error Error".split())


class Rule(NamedTuple):
    """What a pattern stands for, and what is written in its place."""

    what: str
    pattern: re.Pattern
    new: str | Callable[[re.Match], str]


def rules(*each: tuple[str, str, str | Callable[[re.Match], str]]) -> tuple[Rule, ...]:
    """Rules of (what, pattern, new)."""
    return tuple(Rule(what, re.compile(pattern), new) for what, pattern, new in each)


def rewritten(text: str, those: tuple[Rule, ...]) -> str:
    """The rules applied one after the other: a later one sees what an earlier one wrote."""
    for rule in those:
        text = rule.pattern.sub(rule.new, text)
    return text
