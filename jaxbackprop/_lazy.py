"""Modules that are imported when they are asked for, as attributes of their package: `jaxbackprop.scaling.mesh`."""

import importlib
import importlib.util
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType | None:
    """A module of a package; None where it has none of that name.

    >>> submodule("jaxbackprop", "words").__name__, submodule("jaxbackprop", "wrods")
    ('jaxbackprop.words', None)
    """
    if name.startswith("_") or importlib.util.find_spec(f"{package}.{name}") is None:
        return None
    return importlib.import_module(f"{package}.{name}")


def submodules(package: str):
    """What a package answers with for an attribute that it has not: its `__getattr__`."""

    def found(name: str) -> ModuleType:
        if module := submodule(package, name):
            return module
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found
