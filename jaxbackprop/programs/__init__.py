"""Any function of arrays as a program that can be read, run and changed; and every example's gradient of any loss, factored.

In the order to read them: flat, loops, axes, linear, uses, taps, factored; then explain, compare, clipped.
"""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, [module.name for module in pkgutil.iter_modules(__path__)])
