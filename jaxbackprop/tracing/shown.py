"""Numbers as they are written with others, `0.5·2 + (−1)`: arrays of them go through a formula as those of numbers do."""

from __future__ import annotations

import re

import numpy as np

from jaxbackprop.formulas import bracketed


class Shown:
    """A number as it is written with others: `0.5·2 − 1`; arrays of these add and multiply as those of numbers do."""

    __slots__ = ("binds", "minus", "text", "value")

    def __init__(self, text: str, value: float, binds: int = 3, minus: Shown | None = None):
        self.text, self.value, self.binds, self.minus = text, value, binds, minus

    def inside(self, binds: int) -> str:
        """As it stands within something that binds so."""
        return f"({self.text})" if self.binds < binds else bracketed(self.text)

    def __add__(self, other):
        minus = other.minus
        # of a product that begins with a sign, the number in brackets
        plus = re.sub(r"^−[\d.e−]+(?=·)", r"(\g<0>)", other.text) if other.binds == 2 else other.text
        shown = f"− {minus.inside(2)}" if minus else f"+ {bracketed(plus) if other.binds > 1 else plus}"
        return Shown(f"{self.text} {shown}", self.value + other.value, 1)

    def __neg__(self):
        if self.text == "0":
            return Shown("0", 0.0, 3, self)
        return self.minus or Shown(f"−{self.inside(2)}", -self.value, 1, self)

    def __sub__(self, other):
        return self + -other

    def _joined(self, sign: str, other, value: float, left: int, right: int, binds: int):
        first = self.text if self.binds >= left and binds == 2 else self.inside(left)
        return Shown(f"{first}{sign}{other.inside(right)}", value, binds)

    def __mul__(self, other):
        if not isinstance(other, Shown):  # of an identity matrix
            return self if other else Shown("0", 0.0)
        return self._joined("·", other, self.value * other.value, 2, 2, 2)

    def __rmul__(self, other):
        return self * other

    def __truediv__(self, other):
        value = self.value / other.value if other.value else np.nan
        if self.text.isdigit() and other.text.isdigit():
            return Shown("½" if (self.text, other.text) == ("1", "2") else f"{self.text}/{other.text}", value)
        return self._joined(" / ", other, value, 2, 3, 2)

    def __pow__(self, other):
        if other.text == "2":
            return Shown(f"{self.inside(4) if self.binds < 3 else bracketed(self.text)}²", self.value**2)
        return self._joined("^", other, self.value**other.value, 3, 3, 2)

    def __ge__(self, other):
        return self.value >= other.value

    def __gt__(self, other):
        return self.value > other.value

    def __le__(self, other):
        return self.value <= other.value

    def __lt__(self, other):
        return self.value < other.value
