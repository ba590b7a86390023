"""Modules that have moved, under their old names for one more release: each name in them says where it is now."""

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType

# the old module: the package that its names are in now, and the modules there
MODULES = {
    "checkpoint": "training disk checkpoints npz_store identity keeper",
    "cli": "command main",
    "orbax_store": "training orbax_store",
    "privacy": "training accounting privacy",
    "runs": "training disk runs",
    "secret": "training secret",
    "train": "training steps methods epochs inputs evaluate identity many fit",
}


class _Finder:
    """Finds the old modules, and makes them: `importlib`'s finder and loader in one."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        package, _, old = name.rpartition(".")
        return ModuleSpec(name, self) if package == "jaxbackprop" and old in MODULES else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec):  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.rpartition(".")[2]
        package, *homes = MODULES[old].split()

        def found(name: str):
            for home in homes if not name.startswith("__") else ():
                there = importlib.import_module(f"jaxbackprop.{package}.{home}")
                if name in vars(there):
                    said = f"jaxbackprop.{old}.{name} is now {there.__name__}.{name}"
                    warnings.warn(said, DeprecationWarning, stacklevel=2)
                    return vars(there)[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = found  # pyright: ignore[reportAttributeAccessIssue]


def answer() -> None:
    """Let the old names be imported."""
    sys.meta_path.append(_Finder())
