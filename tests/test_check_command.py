"""`jaxbackprop check` on a user's own files, as typed in a terminal."""

import json

import pytest
from commands import in_a_process, jaxbackprop, strict

MINE = """
from functools import partial

import jax
import jax.numpy as jnp


def loss(params, x, y):
    h = jax.nn.relu(x @ params["w0"])
    return 0.5 * jnp.mean(jnp.sum((h @ params["w1"] + x @ params["skip"] - y) ** 2, axis=1))


def gradient(params, x, y):
    z = x @ params["w0"]
    h = jax.nn.relu(z)
    dyhat = (h @ params["w1"] + x @ params["skip"] - y) / len(x)
    dz = dyhat @ params["w1"].T * (z > 0)
    return {"w0": x.T @ dz, "w1": h.T @ dyhat, "skip": x.T @ dyhat}


def without_mask(params, x, y):
    h = jax.nn.relu(x @ params["w0"])
    dyhat = (h @ params["w1"] + x @ params["skip"] - y) / len(x)
    return gradient(params, x, y) | {"w0": x.T @ (dyhat @ params["w1"].T)}


def arguments():
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"w0": (3, 4), "w1": (4, 2), "skip": (3, 2)}
    params = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items())}
    return params, jax.random.normal(keys[3], (6, 3)), jax.random.normal(keys[4], (6, 2))


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, d: (3 * x**2 * d,))
square = jax.custom_vjp(lambda x: x**2)
square.defvjp(lambda x: (x**2, x), lambda x, d: (x * d,))
points = (jnp.linspace(-1.0, 2.0, 5),)
number = 3


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rms(x, eps):
    return x / jnp.sqrt(jnp.mean(x**2) + eps)


rms.defvjp(lambda x, eps: (rms(x, eps), x), lambda eps, x, d: jax.vjp(lambda x: 2 * rms.fun(x, eps), x)[1](d))
with_eps = (jnp.linspace(-1.0, 2.0, 5), 1e-6)


def never(x):
    return jnp.sum(jnp.maximum(jnp.tanh(x) + 2, 0))


def grad_never(x):
    return 1 - jnp.tanh(x) ** 2


def breaks(params, x, y):
    raise RuntimeError("not today")
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_right_is_0_and_wrong_is_1_and_both_say_why():
    right = jaxbackprop("check", "mine.py:loss", "gradient")
    assert right.status == 0, right
    assert right.out.startswith("gradient check: right, 3 parameters")
    assert "4 of 4 decisions" in right.out
    wrong = jaxbackprop("check", "mine.py:loss", "mine.py:without_mask")
    assert wrong.status == 1
    assert wrong.out.startswith("gradient check: WRONG for 1 of 3 parameters: ['w0']\n")
    assert "the derivative of the activation that feeds ['w1'] is left out" in wrong.out


def test_not_all_seen_is_3_and_says_where():
    found = jaxbackprop("check", "mine.py:never", "jax:grad_never", "--arguments", "points")
    assert found.status == 2
    found = jaxbackprop("check", "mine.py:never", "grad_never", "--arguments", "points")
    assert found.status == 3, found
    assert found.out.startswith(
        "gradient check: right where it was looked at: 5 of 5 decisions never seen on both sides"
    )
    assert "never on both sides: 5 max at " in found.out
    found = jaxbackprop("check", "mine.py:never", "grad_never", "--arguments", "points", "--json")
    told = strict(found.out)
    assert (found.status, told["ok"], told["outcome"]) == (3, True, "right where looked at")


def test_json_is_json():
    found = jaxbackprop("check", "mine.py:loss", "without_mask", "--json")
    told = strict(found.out)
    assert (found.status, told["ok"], told["outcome"], len(told["rows"])) == (1, False, "wrong", 3)
    assert [row["parameter"] for row in told["rows"] if not row["ok"]] == ["['w0']"]


def test_a_rule_is_checked_with_and_without_a_reference():
    assert jaxbackprop("check", "mine.py:cube", "--arguments", "points").status == 0
    found = jaxbackprop("check", "mine.py:square", "--arguments", "points")
    assert found.status == 1
    assert "0.5 times the right one" in found.out
    found = jaxbackprop("check", "mine.py:rms", "--arguments", "with_eps")
    assert found.status == 1
    assert "WRONG for 1 of 1 parameters: x\n" in found.out
    (found,) = [jaxbackprop("check", "mine.py:square", "--reference", "square", "--arguments", "points")]
    assert found.status == 1, "its own rule is no reference: differences refute both"


def test_an_importable_module_in_a_process_of_its_own():
    found = in_a_process("check", "mine:loss", "mine:gradient", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss", "gradient"], "'loss' names no module: expected MODULE:VALUE"),
        (["none.py:loss", "gradient"], "there is no file none.py"),
        (["none_such:loss", "gradient"], "there is no module 'none_such' here"),
        (["mine.py:los", "gradient"], "in mine.py: unknown name 'los': did you mean 'loss'?"),
        (["mine.py:loss"], "mine.py:loss has no derivative rule of its own: name the gradient under test too"),
        (["mine.py:number"], "mine.py:number is a int: expected a function"),
        (["mine.py:loss", "gradient", "--arguments", "number"], "number is a int: expected a tuple (params, *data)"),
        (["mine.py:loss", "breaks"], "RuntimeError: not today"),
        (["mine.py:loss", "gradient", "--reference", "loss"], "--reference is for a function with custom_vjp"),
        (["mine.py:loss", "gradient", "--arguments", "points"], "TypeError"),
        (
            ["mine.py:never", "grad_never"],
            "mine.py:never was called with the module's `arguments`: name others by --arg",
        ),
        (["broken.py:loss", "gradient"], "SyntaxError"),
    ],
)
def test_what_does_not_fit_gets_one_line(words, message, tmp_path):
    (tmp_path / "broken.py").write_text("def loss(:\n")
    found = jaxbackprop("check", *words)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("status", [0, 5])
def test_a_file_that_leaves_is_not_checked(status, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.py").write_text(f"import sys\nsys.exit({status})\n")
    found = jaxbackprop("check", "leaves.py:loss", "gradient")
    assert (found.status, found.out, found.err.count("\n")) == (2, "", 1)
    assert f"SystemExit: {status} ({tmp_path / 'leaves.py'}, line 2): it leaves before it is checked" in found.err


def test_a_name_that_is_not_there_is_no_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import jax.numpy as jnp\n")
    assert jaxbackprop("check", "mine.py:jn", "gradient").err.endswith("unknown name 'jn': there is none\n")
