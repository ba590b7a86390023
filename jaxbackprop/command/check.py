"""`jaxbackprop check`: a gradient that somebody wrote, wherever it comes from."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import traceback
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxbackprop as jbp
from jaxbackprop.command.options import JSON, Command, option
from jaxbackprop.spelling import unknown

OURS = str(Path(jbp.__file__).parent)


def deed(arguments: Namespace) -> int:
    """Check a gradient, or a derivative rule, that somebody wrote; returns the exit status: 0, 1 if wrong, 3 if not all seen."""
    value, gradient, reference, at = _loaded(arguments)
    unnamed = f"; {arguments.value} was called with the module's `arguments`: name others by --arguments"
    hint = unnamed if arguments.arguments == "arguments" else ""
    if gradient:
        report = _theirs(jbp.check_gradient, value, gradient, *at, hint=hint)
    else:
        report = _theirs(_checked_rule, arguments.value, value, at, reference, hint=hint)
    print(json.dumps(without_nan(report.to_dict()), ensure_ascii=False) if arguments.json else report)
    return {"right": 0, "wrong": 1}.get(report.outcome, 3)


def _checked_rule(name: str, f, at: tuple, reference):
    try:
        return jbp.check_vjp(f, *at, reference=reference)
    except jbp.checking.check.NoRuleError:
        said = f"{name} has no derivative rule of its own: name the gradient under test too, as in {name} gradient"
        raise ValueError(f"{said}; or, of a kernel, --reference") from None


def _loaded(arguments: Namespace) -> tuple[Any, Any, Any, tuple]:
    """The functions that the arguments name, None for those that they do not, and the point to check at."""
    if arguments.reference and arguments.gradient:
        raise ValueError("--reference is for a function with custom_vjp: leave out the gradient, or --reference")
    if ":" not in arguments.value:
        raise ValueError(f"{arguments.value!r} names no module: expected MODULE:VALUE, such as mine.py:loss")
    sys.path.insert(0, str(Path.cwd()))  # a user's own modules, as `python -m` finds them
    modules: dict[str, ModuleType] = {}
    names = arguments.value, arguments.gradient, arguments.reference, arguments.arguments
    value, gradient, reference, at = (name and _named(name, arguments.value, modules) for name in names)
    for name, function in zip(names[:3], (value, gradient, reference), strict=True):
        if name and not callable(function):
            raise ValueError(f"{name} is a {type(function).__name__}: expected a function")
    at = _theirs(at) if callable(at) else at
    if not isinstance(at, tuple) or not at:
        found = f"{arguments.arguments} is a {type(at).__name__}"
        raise ValueError(f"{found}: expected a tuple (params, *data), or a function that returns one")
    return value, gradient, reference, at


def _named(what: str, first: str, modules: dict[str, ModuleType]) -> Any:
    """What `MODULE:NAME` names, MODULE a .py file or an importable name, by default that of the first; each is run once."""
    module, _, name = what.rpartition(":")
    module = module or first.rpartition(":")[0]
    if module not in modules:
        modules[module] = _module(module)
    found = modules[module]
    if not hasattr(found, name) and what == "arguments":
        raise ValueError(
            f"{module} has no `arguments`: write them there, arguments = (params, *data), where to check; or name a tuple "
            "by --arguments"
        )
    if not hasattr(found, name):
        there = {known: value for known, value in vars(found).items() if known[0] != "_"}
        known = [known for known, value in there.items() if not isinstance(value, ModuleType)]
        raise ValueError(f"in {module}: {unknown('name', name, known)}")
    return getattr(found, name)


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise ValueError(f"there is no module {name!r} here: give a file, such as {name}.py:NAME")
        return _theirs(importlib.import_module, name)
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    _theirs(spec.loader.exec_module, found)
    return found


def _theirs(function, *args, hint: str = "") -> Any:
    """Run somebody's code; what it raises is said in one line, with the place in their code and a hint."""
    try:
        return function(*args)
    except (Exception, SystemExit) as error:  # who leaves has not been checked
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if not f.filename.startswith(OURS) and "site-packages" not in f.filename]
        placed = theirs and theirs[-1].filename[0] != "<"
        where = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if placed else ""
        ours = isinstance(error, ValueError) and not where
        said = str(error) if ours else f"{type(error).__name__}: {error}{where}{hint}"
        said += ": it leaves before it is checked" if isinstance(error, SystemExit) else ""
        raise ValueError(said) from None


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null.

    >>> without_nan({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


COMMAND = Command(
    "check",
    "check a gradient of your own, wherever it comes from",
    "Check GRADIENT(params, *data) against jax.grad of VALUE(params, *data) and against finite differences, "
    "parameter by parameter, and say what a wrong one looks like. Without GRADIENT, VALUE is a function with "
    "jax.custom_vjp, whose derivative rule is checked. Exit status 0: it is right; 1: it is wrong; 2: it cannot be checked; "
    "3: nothing wrong was found, and some decisions (a ReLU, a clip, a margin) were never seen on both sides.",
    """\
  jaxbackprop check mine.py:loss mine.py:gradient     at mine.py's own `arguments`, a tuple (params, *data)
  jaxbackprop check mine.py:loss gradient             the same, shorter
  jaxbackprop check package.module:loss other:gradient --arguments data.py:batch
  jaxbackprop check mine.py:kernel --reference plain  a function with jax.custom_vjp; `arguments` are what it takes
""",
    deed,
    (
        option("value MODULE:VALUE", "the scalar in plain JAX; MODULE is a file or an importable name"),
        option("gradient [MODULE:]GRADIENT", "the gradient under test; MODULE is VALUE's by default", nargs="?"),
        option(
            "--arguments [MODULE:]NAME", "a tuple (params, *data), or what returns one (arguments)", default="arguments"
        ),
        option("--reference [MODULE:]NAME", "without GRADIENT: the same function in plain JAX"),
        JSON,
    ),
)
