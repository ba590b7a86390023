"""Whose per-example gradients are right, of which models? Ours, jax_privacy's, Opacus' and BackPACK's.

    python experiments/conformance.py [--only PATTERN] [--libraries a,b] [--write]

Every model is written in JAX and in PyTorch, with the same parameters and data, in float64. The oracles are
`vmap(jax.grad)` and, in PyTorch, one backward pass for each example. They agree within 1e-10, or the run stops. A
verdict is one of three:

    right     the norms, and the gradients where the library gives them, are those of the oracle
    refused   an exception, or a warning that it is not supported; its first line is kept
    WRONG     neither, with the largest relative error: of a norm, or of a gradient's entry beside the largest entry

A library that is not installed is named and skipped. Figures are written when all libraries judged all cases, or on
--write.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
from conformance_cases import CASES, Case, Squares

import jaxbackprop as jbp

TOLERANCE = 1e-8
AGREEMENT = 1e-10  # of the two oracles
NEEDS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "jax_privacy": ("jax_privacy",),
    "opacus": ("torch", "opacus"),
    "opacus_ghost": ("torch", "opacus"),
    "backpack": ("torch", "backpack"),
    "backpack_l2": ("torch", "backpack"),
}
DISTRIBUTIONS: dict[str, str] = {"backpack": "backpack-for-pytorch", "jax_privacy": "jax-privacy"}
ASKED = (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "."))  # of git
Gradients = dict[str, np.ndarray]


class Verdict(NamedTuple):
    """What a library made of a case, how far it was off, and what it or we say about it."""

    verdict: str
    error: float | None = None
    says: str = ""

    @property
    def figure(self) -> str:
        """The verdict, and the error of what is wrong."""
        return f"WRONG {self.error:.2g}" if self.verdict == "WRONG" and self.error is not None else self.verdict

    def __str__(self) -> str:
        replacement = re.match(r"by [^,]*", self.says)
        return f"{self.figure}, {replacement[0]}" if replacement else self.figure


# ---- JAX's readers; each returns gradients or norms, or several of these, and a note


def oracle(case: Case) -> Gradients:
    """vmap(jax.grad)."""
    grads = jax.jit(jax.vmap(jax.grad(case.loss), in_axes=(None, 0, 0)))(case.trainable(), *case.batch())
    return {name: np.asarray(g) for name, g in grads.items()}


def norms_of(gradients: Gradients) -> np.ndarray:
    """Each example's, over all parameters."""
    return np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in gradients.values()))


def ours(case: Case) -> tuple[list, str]:
    """Norms, gradients and the clipped sum, from the factored gradient; and what was formed for it after all."""
    factored = jbp.factored(case.loss, argnums=0, in_axes=0, has_aux=False, on_fallback="warn")
    bound = bound_of(case)

    @jax.jit
    def read(params, x, y):
        fg = factored(params, x, y)[1]
        return jbp.norms(fg), jbp.materialise(fg), jbp.total(jbp.clip(fg, bound))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        norms, gradients, clipped = read(case.trainable(), *case.batch())
    formed = [said[1] for w in warned if (said := re.match("parameter '(.+?)' enters", str(w.message)))]
    return [np.asarray(norms), gradients, Sum(clipped, bound)], f"formed: {', '.join(formed)}" if formed else ""


def bound_of(case: Case) -> float:
    """A norm that some examples' gradients are above and some below."""
    return float(np.median(norms_of(oracle(case))))


class Sum(NamedTuple):
    """A sum over the examples, each clipped to a bound."""

    gradient: Gradients
    bound: float


def jax_privacy(case: Case) -> tuple[list, str]:
    """clipped_grad: the norms, and the sum, of which nothing is clipped."""
    clipped_grad = importlib.import_module("jax_privacy").clipped_grad
    read = clipped_grad(case.loss, l2_clip_norm=1e9, batch_argnums=(1, 2), keep_batch_dim=False, return_grad_norms=True)
    total, aux = read(jax.tree.map(jnp.asarray, case.trainable()), *case.batch())
    return [np.asarray(aux.grad_norms), Sum(total, np.inf)], ""


def readers(missing: set[str]) -> dict[str, Callable[[str, Case], Any]]:
    """Every library's, as a function of a case and its name."""
    found = {"ours": lambda _, case: ours(case), "jax_privacy": lambda _, case: jax_privacy(case)}
    if "torch" not in missing:
        models: Any = importlib.import_module("conformance_torch")
        found |= {"opacus": models.opacus, "opacus_ghost": models.opacus_ghost}
        found |= {"backpack": models.backpack_gradients, "backpack_l2": models.backpack_norms}
    return found


# ---- verdicts


def judged(reader: Callable[[str, Case], Any], name: str, case: Case, expected: Gradients) -> Verdict:
    """What the reader's figures are worth."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            figures, note = reader(name, case)
        except Exception as error:
            return Verdict("refused", says=f"{type(error).__name__}: {measure.reason(error)}")
    figures = figures if isinstance(figures, list) else [figures]
    said = [str(w.message).splitlines()[0] for w in warned]
    if absent := next((what for f in figures if (what := missing_from(f, expected))), ""):
        # BackPACK says this of every module that holds parameters, directly or not: of use only where some are missing
        said = [line for line in said if "does not have an extension" in line]
        return Verdict("refused", says=said[-1]) if said else Verdict("WRONG", says=absent)
    if lengths := next((what for f in figures if (what := lengths_of(f, expected))), ""):
        return Verdict("WRONG", says=lengths)
    error = float(np.max([error_of(f, expected) for f in figures]))
    if error <= TOLERANCE:
        return Verdict("right", error, note)
    if not np.isfinite(error):
        return Verdict("WRONG", says="not finite")
    said = [line for line in said if re.search("not support|unsupported", line)]
    return Verdict("refused", error, said[0]) if said else Verdict("WRONG", error, note)


def missing_from(figure, expected: Gradients) -> str:
    """The parameters that a library gives nothing for."""
    figure = figure.gradient if isinstance(figure, Sum) else figure
    absent = sorted(expected.keys() - figure.keys()) if isinstance(figure, dict) else []
    return f"silently missing: {', '.join(absent)}" if absent else ""


def lengths_of(figure, expected: Gradients) -> str:
    """How many examples a library takes the batch for, if for others than it has."""
    if isinstance(figure, Sum):
        return ""
    found = {len(a) for a in (figure.values() if isinstance(figure, dict) else [figure])}
    other = found - {len(next(iter(expected.values())))}
    return f"{max(other)} examples in place of {len(next(iter(expected.values())))}" if other else ""


def error_of(figure, expected: Gradients) -> float:
    """The largest relative error of norms, or of a gradient's entries beside the largest entry of all."""
    if isinstance(figure, Sum):
        c = np.minimum(1, figure.bound / norms_of(expected))
        return difference(figure.gradient, {name: np.tensordot(c, e, 1) for name, e in expected.items()})
    if isinstance(figure, Squares):
        return error_of(np.sqrt(sum(figure.values())), expected)
    if isinstance(figure, dict):
        return float(np.max([difference(figure, expected), error_of(norms_of(figure), expected)]))
    return float(np.max(np.abs(figure - norms_of(expected)) / norms_of(expected)))


def difference(given: Gradients, expected: Gradients) -> float:
    """Beside the largest entry of all."""
    largest = max(np.max(np.abs(e)) for e in expected.values())
    return float(np.max([np.max(np.abs(given[name] - e)) for name, e in expected.items()]) / largest)


def require_agreement(name: str, case: Case, expected: Gradients) -> None:
    """Stop unless PyTorch's oracle says what JAX's does."""
    models: Any = importlib.import_module("conformance_torch")
    apart = difference(models.oracle(name, case), expected)
    if not apart <= AGREEMENT:
        raise SystemExit(f"{name}: the two oracles differ by {apart:.2g}; nothing is judged")


# ---- all of them


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name matches; writes nothing")
    parser.add_argument("--libraries", default=",".join(NEEDS), metavar="a,b", help="of these; writes nothing")
    parser.add_argument("--write", action="store_true", help="the figures, though not all cases or libraries ran")
    options = parser.parse_args()
    options.libraries = [name.strip() for name in options.libraries.split(",")]
    if unknown := set(options.libraries) - NEEDS.keys():
        parser.error(f"no such library: {', '.join(sorted(unknown))}; there are {', '.join(NEEDS)}")
    return options


def chosen(libraries: list[str]) -> tuple[dict[str, Callable], set[str]]:
    """The readers of those that can run, and the distributions that are missing."""
    missing = {part for parts in NEEDS.values() for part in parts if importlib.util.find_spec(part) is None}
    able = [name for name in libraries if not missing.intersection(NEEDS[name])]
    for name in sorted(set(libraries) - set(able)):
        lacking = " ".join(DISTRIBUTIONS.get(part, part) for part in NEEDS[name] if part in missing)
        print(f"{name}: skipped, not installed (pip install {lacking})")
    if "ours" in able and not hasattr(jbp, "factored"):
        print("ours: skipped, this jaxbackprop has no factored")
        able.remove("ours")
    found = readers(missing)
    return {name: found[name] for name in able}, missing


def judge_all(cases: dict[str, Case], libraries: dict[str, Callable], missing: set[str]) -> dict[str, dict]:
    """Every library on every case."""
    verdicts: dict[str, dict[str, Verdict]] = {}
    with measure.progress(len(cases)) as say:
        for name, case in cases.items():
            say(name)
            expected = oracle(case)
            if "torch" not in missing:
                require_agreement(name, case, expected)
            verdicts[name] = {library: judged(read, name, case, expected) for library, read in libraries.items()}
            say(name, steps=1)
    return verdicts


def report(verdicts: dict[str, dict[str, Verdict]], libraries: list[str]) -> None:
    """The table, the counts, and what is said about a case."""
    rows = [{"case": case, **{name: str(v) for name, v in row.items()}} for case, row in verdicts.items()]
    measure.show("Per-example gradients and their norms, beside one gradient at a time (float64)", rows)
    for library in libraries:
        counts = Counter(row[library].verdict for row in verdicts.values())
        print(f"\n{library}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "refused", "WRONG")))
        for case, row in verdicts.items():
            if row[library].verdict != "right" or row[library].says:
                print(f"  {case}: {row[library].figure}" + f": {row[library].says}" * bool(row[library].says))


def commit() -> str:
    """Of the jaxbackprop that ran: with PYTHONPATH it need not be the one beside this file."""
    git = ["git", "-C", str(Path(jbp.__file__).parent)]
    found = [
        subprocess.run([*git, *args], capture_output=True, text=True, check=False).stdout.strip() for args in ASKED
    ]
    return found[0] + ("+changes" if found[1] else "")


def write(verdicts: dict[str, dict[str, Verdict]], missing: set[str]) -> None:
    """results/conformance.json, a case a line."""
    needed = {part for parts in NEEDS.values() for part in parts} - missing
    peers = {name: importlib.metadata.version(DISTRIBUTIONS.get(name, name)) for name in sorted(needed)}
    head = {"stamp": measure.stamp() | {"jaxbackprop": commit()}, "peers": peers, "tolerance": TOLERANCE}
    lines = [json.dumps({"case": case, **{k: v._asdict() for k, v in row.items()}}) for case, row in verdicts.items()]
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    path = measure.RESULTS / "conformance.json"
    path.write_text(text)
    print(f"\n{path.relative_to(measure.RESULTS.parents[1])}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    options = parsed()
    libraries, missing = chosen(options.libraries)
    cases = {name: case for name, case in CASES.items() if re.search(options.only, name)}
    if not cases or not libraries:
        raise SystemExit("nothing to judge: no case matches, or no library can run")
    verdicts = judge_all(cases, libraries, missing)
    report(verdicts, list(libraries))
    if options.write or (len(cases) == len(CASES) and libraries.keys() == NEEDS.keys()):
        write(verdicts, missing)


if __name__ == "__main__":
    main()
