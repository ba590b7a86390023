"""Does the gradient check call `jax.grad` right on JAX's own functions? One function after the other, drawn from its API.

    python experiments/check_api.py [--minutes M] [--out FOLDER]
    python experiments/check_api.py --quick

Every public function of the modules below is tried on a few lists of argument shapes, until one gives floating-point
output that `jax.grad` can differentiate, finite, after a sum with fixed weights. Then `check_gradient(value, jax.grad(value), …)`
must say "right": JAX's rules are taken to be right, so that another verdict is a false alarm. Two functions have rules that
are no derivative everywhere (ASSUMING): of these it must say wrong, and why. Refusals are listed with what they say. A row is
written as soon as it is known. Exit status 1 if there was an alarm.
"""

import importlib
import inspect
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np

import jaxbackprop as jbp

MODULES = (
    *("jax.numpy", "jax.numpy.linalg", "jax.numpy.fft", "jax.nn", "jax.lax", "jax.lax.linalg"),
    *("jax.scipy.special", "jax.scipy.linalg", "jax.scipy.stats", "jax.scipy.signal", "jax.ops"),
)
SQUARE, VECTOR, SMALL = (3, 3), (4,), ()
SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    *((VECTOR,), (SQUARE,), (VECTOR, VECTOR), (SQUARE, SQUARE), (VECTOR, VECTOR, VECTOR)),
    *((SMALL,), (SMALL, SMALL), (VECTOR, VECTOR, VECTOR, VECTOR), (SQUARE, (3,)), ((2, 3, 4),)),
)
# the rules of these hold for bounds in order, and for symmetric matrices; the arguments drawn are neither
ASSUMING = {"jax.lax.clamp": "bounds in order", "jax.scipy.linalg.cholesky": "symmetric matrices"}
# called wrong once, or hard: a solve, a product that is 0 at 0, one that cancels
QUICK = ("jax.numpy.linalg.inv", "jax.scipy.special.xlogy", "jax.numpy.sinc")


class Case(NamedTuple):
    """One function: its name, its value as a scalar of params, and where to check it."""

    name: str
    value: Callable
    params: list


class Found(NamedTuple):
    """What was said of one function: "right", "no derivative", "alarm" or "refused"; in which words, and how long it took."""

    name: str
    verdict: str
    said: str
    seconds: float


def names() -> list[str]:
    """Every public function of the modules, as "module.name"."""
    found = []
    for module in MODULES:
        public = inspect.getmembers(importlib.import_module(module), callable)
        found += [f"{module}.{name}" for name, f in public if not name.startswith("_") and not inspect.isclass(f)]
    return found


def case_of(name: str) -> Case | None:
    """The first arguments that give a differentiable scalar; None where none do."""
    module, _, attribute = name.rpartition(".")
    function = getattr(importlib.import_module(module), attribute)
    for shapes in SHAPES:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        args = [
            jnp.asarray(
                rng.uniform(0.2, 0.9, shape) + (np.eye(3) if shape == SQUARE else 0), "float32"
            )  # no singular one
            for shape in shapes
        ]
        try:
            value = summed(function, args)
            grads = jax.grad(value)(args)
        except Exception:  # most lists of arguments are no function's own
            continue
        if all(np.isfinite(g).all() for g in (value(args), *grads)) and any(np.any(g) for g in grads):
            return Case(name, value, args)
    return None


def summed(function: Callable, args: list) -> Callable:
    """Σ c · function(args) over all floating-point outputs, real and imaginary, with fixed weights c."""
    rng = np.random.default_rng(1)
    outs = [
        out
        for out in jax.tree.leaves(jax.eval_shape(lambda *a: function(*a), *args))
        if jnp.issubdtype(out.dtype, jnp.inexact)
    ]
    weights = [jnp.asarray(rng.uniform(0.5, 1.5, out.shape), "float32") for out in outs]
    assert outs

    def value(args):
        got = [out for out in jax.tree.leaves(function(*args)) if jnp.issubdtype(out.dtype, jnp.inexact)]
        terms = [
            jnp.sum(c * part)
            for c, out in zip(weights, got, strict=True)
            for part in (out.real, out.imag)[: 1 + jnp.iscomplexobj(out)]
        ]
        return sum(terms)

    return value


def checked(case: Case) -> Found:
    """Check `jax.grad` of one function."""
    start = time.perf_counter()
    try:
        report = jbp.check_gradient(case.value, jax.grad(case.value), case.params)
        said = "; ".join(row.problem for row in report.rows if not row.ok)
        assumed = ASSUMING.get(case.name)
        told = report.ok if assumed is None else assumed in said
        verdict = "alarm" if not told else "right" if assumed is None else "no derivative"
    except Exception as error:
        verdict, said = "refused", f"{type(error).__name__}: {error}".splitlines()[0]
    return Found(case.name, verdict, said, time.perf_counter() - start)


def others(found: list[Found]) -> list[dict]:
    """What was not called right."""
    return [{"name": f.name, "verdict": f.verdict, "said": f.said} for f in found if f.verdict != "right"]


def summary(found: list[Found], left_out: int) -> dict:
    """How many functions got each verdict, how many are left out, and how long the checks took."""
    seconds = [f.seconds for f in found]
    took = {
        "median": round(statistics.median(seconds), 2),
        "longest": round(max(seconds), 2),
        "all": round(sum(seconds)),
    }
    return {
        "functions": len(found),
        "verdicts": Counter(f.verdict for f in found),
        "left_out": left_out,
        "seconds": took,
    }


def main() -> int:
    parser = measure.Parser(__doc__, "three functions")
    parser.add_argument("--minutes", type=measure.positive, default=np.inf, help="begin nothing new after so many")
    given = parser.given()
    todo, began, found, tried = QUICK if given.quick else names(), time.perf_counter(), [], 0
    for name in measure.followed(todo):
        if time.perf_counter() - began > 60 * given.minutes:
            break
        if (case := case_of(name)) is not None:
            found.append(checked(case))
        tried += 1
        if given.folder and found:
            more = summary(found, len(todo) - tried)
            measure.save("check_api", others(found), given.folder, stamp=given.stamp, **more)
    measure.show("not called right", others(found))
    counts = Counter(one.verdict for one in found)
    print(
        f"{len(found)} functions checked in {time.perf_counter() - began:.0f} s: {counts['right']} right, "
        f"{counts['no derivative']} no derivative, as is said, {counts['alarm']} alarms, {counts['refused']} refused; "
        f"{tried - len(found)} not differentiable on these arguments, {len(todo) - tried} left out"
    )
    return int(counts["alarm"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
