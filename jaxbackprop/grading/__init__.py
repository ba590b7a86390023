"""A written derivation, marked line by line: `grade`.

In the order to read them: report, formula, notation, statements, wiring, worlds, court, remarks, judge, grade.
"""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [module.name for module in pkgutil.iter_modules(__path__)])
