"""The derivation worked through with numbers: `trace`.

In the order to read them: symbols, rows, render, picture, trace.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
