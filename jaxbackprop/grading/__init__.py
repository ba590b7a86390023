"""A written derivation, marked line by line: `grade`.

In the order to read them: report, formula, notation, statements, wiring, worlds, court, remarks, judge, grade.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
