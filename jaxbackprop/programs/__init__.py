"""Any function of arrays as a program that can be read, run and changed; and every example's gradient of any loss, factored.

In the order to read them: flat, loops, axes, linear, uses, taps, factored; then explain, compare, clipped.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
