"""The wheel without extras, as its own program: `python wheel_alone.py` where only it is installed."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxbackprop as jbp

COMMAND = Path(sys.executable).with_name("jaxbackprop")


def run(*words: str, given: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *words], input=given, capture_output=True, text=True, check=False)


def main() -> None:
    net = jbp.skip_mlp((2, 3, 3, 1), bias=True)
    params, x, y = jbp.init(net, jax.random.key(0)), jnp.ones((4, 2)), jnp.ones((4, 1))
    loss, gradient = (make(net, "huber") for make in (jbp.plain_loss, jbp.value_and_grad))
    assert jbp.check_gradient(loss, lambda *args: gradient(*args)[1], params, x, y).ok
    assert jbp.norms(jbp.factored(lambda p, x: jnp.sum((p @ x) ** 2))(jnp.ones((3, 2)), x)[1]).shape == (4,)
    assert "dh0" in jbp.trace(net, "huber", params, x[0], y[0]).text()
    assert run("--version").stdout.strip() == jbp.__version__
    assert run("trace").returncode == 0
    missing = ((["grade", "-"], "grade"), (["train"], "cli"), (["trace", "--figure", "exercise.svg"], "cli"))
    for words, extra in missing:
        done = run(*words, given="dL/dz1 = dL/dh1")
        assert done.returncode == 2, done
        assert f"jaxbackprop[{extra}]" in done.stderr, done
        assert len(done.stderr.splitlines()) == 1, done
    print("the wheel alone works")


if __name__ == "__main__":
    main()
