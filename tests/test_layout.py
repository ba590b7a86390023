"""The house: imports go down and hide nowhere, files and functions are short, and no module is shadowed."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import jaxbackprop as jbp

PACKAGE = Path(jbp.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "conftest.py"
}
# from the bottom up: a module imports what stands before it
BOTTOM = """
_moved _lazy exercise mathematics spelling words tables pairs strides windows refusals doors arithmetic activations formulas
losses network views factors model backprop bilinear readouts variance sketches
"""
GROUND = BOTTOM.split()
WINGS = """
programs programs.flat programs.loops programs.axes programs.linear programs.uses programs.taps programs.factored
programs.explain programs.compare programs.clipped
scaling scaling.streaming gradient scaling.processes scaling.mesh scaling.padded
scaling.kernel_parts scaling.kernel_tpu scaling.kernel_gpu scaling.kernel
checking checking.products checking.leaves checking.arguments checking.closures checking.decisions checking.rounding
checking.points checking.differences checking.diagnosis checking.mistakes checking.layers checking.lines checking.steps
checking.report checking.reference checking.tested checking.comparison checking.disputes checking.causes checking.verdict
checking.check
grading grading.counters grading.expression grading.functions grading.grammar grading.arrays grading.words grading.characters
grading.vocabulary grading.notation grading.sides grading.guards grading.wording grading.pieces grading.lines grading.report
grading.values grading.curvature grading.updates grading.claims grading.meanings grading.reading grading.statements
grading.sections grading.stages
grading.shapes grading.world grading.derivatives
grading.points grading.comparison grading.telling grading.numbers grading.correction grading.diagnosis grading.choice
grading.wiring grading.slips grading.unjudged grading.judge grading.grade
tracing tracing.symbols tracing.render tracing.rows tracing.picture tracing.trace tracing.shown tracing.circuit
tracing.taken tracing.derivation
data.saying data.values data.sheets data.encoding data.sources data.tables data.targets data.blocks data.reading
data.formats data.stored data.figures data.loading data blocks devices
training training.disk training.checkpoints training.npz_store training.orbax_store training.runs training.secret
training.steps training.methods training.epochs training.inputs training.evaluate training.identity training.keeper
training.fit training.many training.accounting training.privacy
command command.options command.cache command.stopping command.screen command.planning command.fitting
command.predict command.evaluate command.grade command.trace command.check command.train command.main __main__
"""
FLOORS = [*GROUND, *WINGS.split()]


def imports(tree):
    """The modules of ours that a file imports, each with whether it hides in a function."""
    for node in ast.walk(tree):
        for inner in ast.walk(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            yield from ((name, True) for name in named(inner))
    yield from ((name, False) for node in tree.body for name in named(node))


def named(node):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxbackprop":
        base = node.module.partition(".")[2]
        for alias in node.names:
            full = f"{base}.{alias.name}".strip(".")
            yield full if full in FILES else base
    elif isinstance(node, ast.Import):
        yield from (a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "jaxbackprop")


@pytest.mark.parametrize("name", [name for name in FILES if name != "__init__"])
def test_imports_go_down_and_hide_in_no_function(name):
    assert name in FLOORS, f"{name} has no place in the order: put it where it belongs"
    for other, hidden in imports(ast.parse(FILES[name].read_text())):
        assert not hidden, f"{name} imports {other} inside a function"
        if other == "" and name.startswith("command."):  # the package itself, which imports what it is asked for
            continue
        assert FLOORS.index(other) < FLOORS.index(name), f"{name} imports {other}, which stands above it"


def test_a_command_finds_what_it_computes_with_below_it_through_the_package():
    """`jbp.training.runs` is an arrow too."""
    for name in ("main", "options", "train", "predict", "evaluate", "grade", "trace", "check"):
        name = f"command.{name}"
        tree = ast.parse(FILES[name].read_text())
        asked = {other for node in ast.walk(tree) if isinstance(node, ast.Attribute) for other in through_package(node)}
        assert {other for other in asked if FLOORS.index(other) >= FLOORS.index(name)} == set()


def through_package(node):
    """The module of ours that `jbp.a.b` names, if any."""
    words = ast.unparse(node).split(".")
    return [".".join(words[1:])] if words[0] == "jbp" and ".".join(words[1:]) in FILES else []


def test_the_exercise_imports_nothing_of_ours():
    assert list(imports(ast.parse(FILES["exercise"].read_text()))) == []


def test_the_derivation_is_short():
    lines = {name: len(FILES[name].read_text().splitlines()) for name in GROUND}
    assert {name: n for name, n in lines.items() if n > 200} == {}
    three = ("exercise", "backprop", "factors")
    assert sum(lines[name] - spared_lines(FILES[name]) for name in three) <= 330


def spared_lines(path):
    """Those of the docstrings of functions and classes: what is raised, and examples, is no part of the derivation."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return sum(n.body[0].end_lineno - n.body[0].lineno + 1 for n in nodes if ast.get_docstring(n))


def test_no_function_is_longer_than_a_screen():
    wings = ("scaling", "programs", "gradient", "checking", "data", "training", "command")
    core = [*GROUND, *(name for name in FILES if name.startswith(wings))]
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno
        for name in core
        for node in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(node, ast.FunctionDef) and code_lines(node) > 60
    }
    assert long == {}


def code_lines(function):
    docstring = function.body[0] if ast.get_docstring(function) else None
    spared = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - spared


def test_no_module_is_shadowed():
    for name in jbp.__all__:
        if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir():
            assert getattr(jbp, name) is importlib.import_module(f"jaxbackprop.{name}"), name


def test_the_top_level_is_a_short_list():
    assert len(jbp.__all__) <= 50
    assert len(set(jbp.__all__)) == len(jbp.__all__)
    for name in jbp.__all__:
        assert getattr(jbp, name) is not None


def test_signatures_have_names_and_no_addresses():
    public = [getattr(jbp, name) for name in jbp.__all__ if name not in ("exercise", "grade")]
    public += [jbp.exercise.forward, jbp.exercise.gradient]
    said = {one.__name__: str(inspect.signature(one)) for one in public}
    odd = re.compile(r" at 0x|<class|collections\.abc|typing\.|jaxbackprop\.")
    assert {name: signature for name, signature in said.items() if odd.search(signature)} == {}


def test_old_names_answer_and_say_where_they_are():
    for name, where in jbp._MOVED.items():
        with pytest.warns(DeprecationWarning, match=f"jaxbackprop.{name} is now {where}.{name}"):
            found = getattr(jbp, name)
        assert found is getattr(importlib.import_module(where), name)
        assert name not in jbp.__all__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(jbp, "no_such_name")
    with pytest.raises(AttributeError, match=r"module 'jaxbackprop' has no attribute 'value_and_gard'.*value_and_grad"):
        _ = jbp.value_and_gard


def test_old_modules_answer_and_each_name_says_where_it_is():
    for old, name, where in (
        ("cli", "entry", "command.main"),
        ("train", "TrainState", "steps"),
        ("train", "GradientMethod", "steps"),
        ("train", "fit", "fit"),
        ("checkpoint", "Checkpoints", "checkpoints"),
        ("checkpoint", "save", "npz_store"),
        ("orbax_store", "save", "orbax_store"),
        ("privacy", "private_gradient", "privacy"),
        ("privacy", "Plan", "accounting"),
        ("runs", "read_run", "runs"),
        ("secret", "secret_key", "secret"),
    ):
        module = importlib.import_module(f"jaxbackprop.{old}")
        assert module is getattr(jbp, old)
        where = where if "." in where else f"training.{where}"
        with pytest.warns(DeprecationWarning, match=f"jaxbackprop.{old}.{name} is now jaxbackprop.{where}.{name}"):
            found = getattr(module, name)
        assert found is getattr(importlib.import_module(f"jaxbackprop.{where}"), name)
        with pytest.raises(AttributeError, match=f"module 'jaxbackprop.{old}' has no attribute 'nothing'"):
            _ = module.nothing
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("jaxbackprop.trains")


def test_nothing_is_imported_before_it_is_asked_for():
    known = "print('jax' in sys.modules)"
    said = f"import sys, jaxbackprop as jbp; {known}; jbp.norms; {known}"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "True"]


def test_the_stub_says_where_each_name_is():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    named = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    modules = FILES.keys() - set(jbp.__all__)  # so that `jbp.training` has a type
    assert sorted(set(named) - modules) == sorted(jbp.__all__)


def test_a_module_is_an_attribute_though_nobody_imported_it():
    said = "import jaxbackprop as jbp; print(jbp.losses.LOSSES is not None, jbp.scaling.mesh.__name__)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "jaxbackprop.scaling.mesh"], done.stderr
