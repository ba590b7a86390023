"""The derivation worked through with numbers: `trace`.

In the order to read them: symbols, rows, render, picture, trace.
"""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [module.name for module in pkgutil.iter_modules(__path__)])
