"""Losses of one example, many kinds: how a parameter can be used. The tests are in test_zoo.py.

ZOO holds the cases by name, FAMILIES by what they have in common.
"""

import zoo_forms
import zoo_layers
import zoo_programs
import zoo_uses
from zoo_case import Case, Random

FAMILIES = {
    "products": zoo_uses.PRODUCTS,
    "convolutions": zoo_uses.CONVOLUTIONS,
    "lookups": zoo_uses.LOOKUPS,
    "whole": zoo_uses.WHOLE,
    "shared": zoo_uses.SHARED,
    "control": zoo_programs.CONTROL,
    "prefix": zoo_programs.PREFIX,
    "form": zoo_forms.FORM,
    "casts": zoo_forms.CASTS,
    "nnx": zoo_layers.NNX,
    "linen": zoo_layers.LINEN,
    "equinox": zoo_layers.EQUINOX,
}
ZOO = {name: case for family in FAMILIES.values() for name, case in family.items()}
assert len(ZOO) == sum(map(len, FAMILIES.values())), "two cases have one name"


def make(name: str) -> Case:
    """The case of this name; call it in float64."""
    return ZOO[name](Random(name))
