r"""Letters that count layers or steps: the l of z^l and W^{[l+1]}, the t of h_{t-1}.

Such a letter is no index: z^l is a name like z^1. `coded` writes it as a number that no text has, and everything else
reads on: z^{l-1} is z699, h_{t} is h600. `spoken` turns the numbers back for the report. L is the last l, T the last t; a sum
over all t is a sum over an index t, which `stages` writes out.
"""

import re
from collections.abc import Mapping

CODES = {"l": 700, "L": 800, "t": 600, "T": 900, "k": 500, "n": 400}
FAR = 9  # from the letter: l-9, ..., l+9
_STEP = r"\s*([lLtTkn])\s*(?:([+-])\s*(\d))?\s*"
_ABOVE = re.compile(
    rf"\^\s*\{{\s*(\(|\[|<|\\langle)?{_STEP}(?:\)|\]|>|\\rangle)?\s*(?:\^?\s*(T|\\top|\\intercal|\\prime|'))?\s*\}}"
)
_ABOVE_BARE = re.compile(rf"\^\s*(?:[\[(<]{_STEP}[\])>]|([lL])(?![A-Za-z0-9]))")
_BELOW = re.compile(rf"_\s*(?:\{{{_STEP}\}}|\({_STEP}\)|([ltTkn])(?![A-Za-z0-9_]))")
_OVER_STEPS = re.compile(  # all of them: from 1 to T, from 0 to T − 1, or without limits
    r"(?:\\sum(?![a-z])|[Σ∑]|(?<![A-Za-z0-9_.\\])sum)\s*(?:\\(?:no)?limits)?\s*_\s*"
    r"(?:[{(]\s*t\s*(?:=\s*(?P<first>[01])\s*)?[})]|t(?![A-Za-z0-9_]))"
    r"(?:\s*\^\s*(?:\{\s*(?:[TNn]|\\tau|τ)\s*(?P<less>-\s*1\s*)?\}|[TNnτ](?![A-Za-z0-9])))?"
)
_LAST_STEP = re.compile(
    r"_\s*(?:T(?![A-Za-z0-9_])|[{(]\s*T\s*[})+-])|\^\s*\{?\s*(?:[(<]|\\langle)\s*T\s*(?:[)>+-]|\\rangle)"
)
_T = r"\s*(t\s*(?:[+-]\s*\d)?)\s*"
_LETTER = r"\s*([a-su-z])\s*"
_LETTER_BELOW = r"_\s*(?:([a-su-z])|\{\s*([a-su-z])\s*\})"
_BESIDE = {  # an index: h_{t,j}, h_{j,t}; h_j^t; h^t_j
    re.compile(rf"_\s*\{{{_T},{_LETTER}\}}"): r"_\2_{\1}",
    re.compile(rf"_\s*\{{{_LETTER},{_T}\}}"): r"_\1_{\2}",
    re.compile(rf"{_LETTER_BELOW}\s*\^\s*(?:\{{{_T}\}}|(t)(?![A-Za-z]))"): r"_\1\2_{\3\4}",
    re.compile(rf"\^\s*(?:\{{{_T}\}}|(t))\s*{_LETTER_BELOW}(?![A-Za-z])"): r"_\3\4_{\1\2}",
}
_INSIDE = re.compile(rf"(?<=[A-Za-z])\[{_STEP}\]")  # h[t-1], in code
_NUMBER = re.compile(r"(?<=[A-Za-z_Ͱ-Ͽ])(\d{3})(?:_([a-su-z]{1,2})(?![A-Za-z\d]))?(?![\d.])")


def counting(text: str) -> frozenset[str]:
    """The letters that count: l above a name; another where one less or more of it stands, and no sum runs over it."""
    found = {"l"} if re.search(r"\^\s*(?:l(?![A-Za-z])|[\[({][\[(\s]*l\s*[\])+}-])", text) else set()
    last = r"\^\s*\{?\s*(?:[\[(]\s*L\s*[\])]|[\[(]?\s*L\s*-\s*1)"
    found |= {"L"} if re.search(last, text) or (found and re.search(r"\^\s*\{?\s*L(?![A-Za-z])", text)) else set()
    for x in "ltkn":
        one_off = rf"\s*{x}\s*[+-]\s*1\s*"
        near = rf"_\s*[{{(]{one_off}[}})]|\^\s*\{{?\s*[\[(<]{one_off}[\])>]|[A-Za-z]\[{one_off}\]"
        summed = x in "kn" and re.search(rf"(?:\\sum|[Σ∑]|\bsum)\s*_?\s*\{{?\s*{x}(?![A-Za-z])", text)
        bare = text.replace(r"\langle", "<").replace(r"\rangle", ">")
        if re.search(near, _apart(bare) if x == "t" else bare) and not summed:
            found.add(x)
    return frozenset(found | ({"T"} if "t" in found and _LAST_STEP.search(text) else set()))


def _apart(raw: str) -> str:
    """h_{t-1,k} and h_k^{t-1} as h_{k}_{t-1}."""
    for pattern, apart in _BESIDE.items():
        raw = pattern.sub(apart, raw)
    return raw


def coded(raw: str, letters: frozenset[str]) -> str:
    r"""A formula with z^{l-1} as z_{699}.

    >>> coded(r"\delta^l = (W^{[l+1]T} h_{t-1})", frozenset("lt"))
    '\\delta_{700} = (W_{701} ^{T} h_{599})'
    """
    if not letters:
        return raw

    def number(letter: str, sign: str | None, far: str | None) -> str:
        return str(CODES[letter] + int(f"{sign or '+'}{far or 0}"))

    def above(m: re.Match) -> str:
        if m[2] not in letters or (m[2] in "tTkn" and not m[1]):
            return m[0]
        mark = {"": "", "'": "'", "\\prime": "'"}.get(m[5] or "", " ^{T}")
        return f"_{{{number(*m.groups()[1:4])}}}{mark}"

    def below(m: re.Match) -> str:
        groups = [g for g in m.groups() if g]
        return f"_{{{number(*(groups + ['+', '0'][: 3 - len(groups)])[:3])}}}" if groups[0] in letters else m[0]

    if "l" in letters or "L" in letters:  # Nielsen's ∇_a C
        raw = re.sub(r"(\\nabla|∇)\s*_\s*\{?\s*([az])\s*\}?(?=\s*[A-Z\\])", rf"\1_{{\2_{{{CODES['L']}}}}}", raw)
    if "t" in letters:
        raw = _apart(raw)
        raw = _OVER_STEPS.sub(lambda m: m[0] if m["less"] and m["first"] != "0" else " Σ⟨t⟩ ", raw)
    sums = r"(\\sum|[Σ∑])\s*_\s*\{\s*([lLtkn])\s*="
    raw = re.sub(sums, lambda m: f"{m[1]}_{{{CODES[m[2]]}=" if m[2] in letters else m[0], raw)
    raw = _ABOVE_BARE.sub(below, _ABOVE.sub(above, raw))
    raw = _BELOW.sub(lambda m: below(m) if (m[1] or m[4] or m[7]) != "L" else m[0], raw)
    raw = re.sub(r"(\\nabla|∇)\s*_\s*\{\s*(\\?[A-Za-z]+)\s*_\{(\d{3})\}\s*\}", r"\1_{\2\3}", raw)
    return _INSIDE.sub(lambda m: below(m) if m[1] in letters else m[0], raw)


def counter(name: str) -> tuple[str, str, int] | None:
    """z699 as ("z", "l", -1); None for a name without such a number."""
    match = re.fullmatch(r"(\D.*?)_?(\d{3})", name)
    if not match:
        return None
    nearest = round(int(match[2]), -2)
    letter = next((x for x, code in CODES.items() if code == nearest), None)
    far = int(match[2]) - nearest
    return (match[1], letter, far) if letter and abs(far) <= FAR else None


def moved(v: str, letter: str, by: int) -> str:
    """z700 one layer on is z701; a name without the letter stays."""
    found = counter(v)
    return f"{v[:-3]}{int(v[-3:]) + by}" if found and found[1] == letter else v


def spoken(text: str, last: Mapping[str, tuple[str, int]]) -> str:
    """Numbers as letters again; `last`: a letter -> that of the last one, and how far on it is.

    >>> spoken("dL/da699 = W700^T * dL/dz700, h602, x599_i", {"t": ("T", 2)})
    'dL/da_{l-1} = W_l^T * dL/dz_l, h_T, x_{t-1,i}'
    """

    def word(m: re.Match) -> str:
        found = counter(f"x{m[1]}")
        if found is None:
            return m[0]
        _, letter, far = found
        letter, far = (last[letter][0], 0) if letter in last and last[letter][1] == far else (letter, far)
        step = f"{letter}{far:+d}" if far else letter
        step = f"{step},{m[2]}" if m[2] else step
        return f"_{step}" if len(step) == 1 else f"_{{{step}}}"

    return _NUMBER.sub(word, text)
