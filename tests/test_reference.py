"""What a reader asks for: `help` of every public name, and the command by the name of the package."""

import importlib
import pkgutil
import pydoc
import subprocess
import sys

import pytest

import jaxbackprop as jbp

# where JAX and jaxtyping keep their types: noise, where the source has a name for them
NOISE = ("jax._src", "jaxlib._jax", "jaxtyping.")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(jbp.__path__, "jaxbackprop.")
    if not module.name.rpartition(".")[2].startswith(("_", "conftest"))
]


def said_by_help(name, thing):
    text = pydoc.plain(pydoc.render_doc(thing))
    assert len(text.splitlines()) > 2, f"help({name}) says nothing"
    assert [noise for noise in NOISE if noise in text] == [], f"{name}: its module wants postponed annotations"
    return text


@pytest.mark.parametrize("name", [name for name in jbp.__all__ if name != "exercise"])  # a module, see below
def test_help_of_the_short_list_says_types_by_their_names(name):
    assert "ForwardRef" not in said_by_help(f"jaxbackprop.{name}", getattr(jbp, name))


@pytest.mark.parametrize("name", MODULES)
def test_help_of_what_a_module_defines_says_types_by_their_names(name):
    module = importlib.import_module(name)
    assert len(module.__doc__ or "") > 40, f"{name} has no guide"
    for each, thing in vars(module).items():
        if not each.startswith("_") and getattr(thing, "__module__", None) == name:
            said_by_help(f"{name}.{each}", thing)


def test_the_signature_is_the_one_in_the_source():
    text = " ".join(said_by_help("forward", jbp.forward).split())  # from Python 3.13 on a parameter a line
    assert "params: 'Params', x: \"Float[Array, ' d']\", precision: 'Precision' = None" in text
    assert ") -> 'Forward'" in text


def test_the_package_is_the_command():
    run = [sys.executable, "-m", "jaxbackprop"]
    done = subprocess.run([*run, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [jbp.__version__]), done.stderr
    wrong = subprocess.run([*run, "trian"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
    assert "did you mean 'train'" in wrong.stderr
