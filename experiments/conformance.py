"""Whose per-example gradients are right, of which models? Ours, jax_privacy's, Opacus' and BackPACK's.

    python experiments/conformance.py [--quick] [--out FOLDER]

Every model is written in JAX and in PyTorch, with the same parameters and data, in float64. The oracles are
`vmap(jax.grad)` and, in PyTorch, one backward pass for each example. They agree within 1e-10, or the run stops. A
verdict is one of three:

    right     the norms, and the gradients where the library gives them, are those of the oracle
    refused   an exception, or a warning that it is not supported; its first line is kept
    WRONG     neither, with the largest relative error: of a norm, or of a gradient's entry beside the largest entry

A library that is not installed is named and skipped, and the figures of the others are written to --out alone.
"""

import importlib
import re
import warnings
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import rivals
from conformance_cases import CASES, EXAMPLES, Case, Squares

import jaxbackprop as jbp

TOLERANCE = 1e-8
AGREEMENT = 1e-10  # of the two oracles
PEERS = ("jax_privacy", "torch", "opacus", "backpack")
Gradients = dict[str, np.ndarray]


class Verdict(NamedTuple):
    """What a library made of a case, how far it was off, and what it or we say about it."""

    verdict: str
    error: float | None = None
    says: str = ""

    def __str__(self) -> str:
        """The verdict, the error of what is wrong, and by what the library replaced a layer."""
        error = f" {self.error:.2g}" if self.verdict == "WRONG" and self.error is not None else ""
        replacement = re.match(r"by [^,]*", self.says)
        return self.verdict + error + (f", {replacement[0]}" if replacement else "")


# ---- JAX's readers; each returns gradients or norms, or several of these, and a note


def oracle(case: Case) -> Gradients:
    """vmap(jax.grad)."""
    grads = jax.jit(jax.vmap(jax.grad(case.loss), in_axes=(None, 0, 0)))(case.trainable(), *case.batch())
    return {name: np.asarray(g) for name, g in grads.items()}


def norms_of(gradients: Gradients) -> np.ndarray:
    """Each example's, over all parameters."""
    return np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in gradients.values()))


def ours(_: str, case: Case) -> tuple[list, str]:
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


def jax_privacy(_: str, case: Case) -> tuple[list, str]:
    """clipped_grad: the norms, and the sum, of which nothing is clipped."""
    read = importlib.import_module("jax_privacy").clipped_grad(
        case.loss, l2_clip_norm=1e9, batch_argnums=(1, 2), keep_batch_dim=False, return_grad_norms=True
    )
    total, aux = read(jax.tree.map(jnp.asarray, case.trainable()), *case.batch())
    return [np.asarray(aux.grad_norms), Sum(total, np.inf)], ""


def readers(torch: ModuleType | None, missing: set[str]) -> dict[str, Callable[[str, Case], Any]]:
    """Those that can run, each a function of a case's name and the case."""
    found: dict[str, Callable] = {"ours": ours}
    found |= {} if "jax_privacy" in missing else {"jax_privacy": jax_privacy}
    if torch and "opacus" not in missing:
        found |= {"opacus": torch.opacus, "opacus_ghost": torch.opacus_ghost}
    if torch and "backpack" not in missing:
        found |= {"backpack": torch.backpack_gradients, "backpack_l2": torch.backpack_norms}
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
    if absent := sorted({parameter for figure in figures for parameter in absent_from(figure, expected)}):
        # BackPACK says this of every module that holds parameters, directly or not: of use only where some are missing
        said = [line for line in said if "does not have an extension" in line]
        silently = Verdict("WRONG", says=f"silently missing: {', '.join(absent)}")
        return Verdict("refused", says=said[-1]) if said else silently
    if other := {count for figure in figures for count in lengths_of(figure)} - {EXAMPLES}:
        return Verdict("WRONG", says=f"{max(other)} examples in place of {EXAMPLES}")
    error = float(np.max([error_of(f, expected) for f in figures]))
    if error <= TOLERANCE:
        return Verdict("right", error, note)
    if not np.isfinite(error):
        return Verdict("WRONG", says="not finite")
    said = [line for line in said if re.search("not support|unsupported", line)]
    return Verdict("refused", error, said[0]) if said else Verdict("WRONG", error, note)


def absent_from(figure, expected: Gradients) -> set[str]:
    """The parameters that a library gives nothing for."""
    figure = figure.gradient if isinstance(figure, Sum) else figure
    return expected.keys() - figure.keys() if isinstance(figure, dict) else set()


def lengths_of(figure) -> set[int]:
    """How many examples a library takes the batch for."""
    if isinstance(figure, Sum):
        return {EXAMPLES}
    return {len(a) for a in (figure.values() if isinstance(figure, dict) else [figure])}


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


# ---- all of them


def judge_all(names: list[str], libraries: dict[str, Callable], torch: ModuleType | None) -> dict[str, dict]:
    """Every library on every case; it ends where PyTorch's oracle does not say what JAX's does."""
    verdicts: dict[str, dict[str, Verdict]] = {}
    for name in measure.followed(names):
        expected = oracle(CASES[name])
        if torch and not (apart := difference(torch.oracle(name, CASES[name]), expected)) <= AGREEMENT:
            raise SystemExit(f"{name}: the two oracles differ by {apart:.2g}; nothing is judged")
        verdicts[name] = {library: judged(read, name, CASES[name], expected) for library, read in libraries.items()}
    return verdicts


def report(verdicts: dict[str, dict[str, Verdict]], libraries: list[str]) -> None:
    """The table, the counts, and what is said about a case."""
    rows = [{"case": case, **{name: str(v) for name, v in row.items()}} for case, row in verdicts.items()]
    measure.show("Per-example gradients and their norms, beside one gradient at a time (float64)", rows)
    for library in libraries:
        found = {case: row[library] for case, row in verdicts.items()}
        counts = Counter(verdict.verdict for verdict in found.values())
        print(f"\n{library}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "refused", "WRONG")))
        for case, verdict in found.items():
            if verdict.says:
                print(f"  {case}: {verdict.verdict}: {verdict.says}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    given, missing = measure.arguments(__doc__, "every fifth model"), rivals.missing(*PEERS)
    torch = None if "torch" in missing else importlib.import_module("conformance_torch")
    libraries = readers(torch, missing)
    verdicts = judge_all(list(CASES)[:: 5 if given.quick else 1], libraries, torch)
    report(verdicts, list(libraries))
    folder = given.out if missing else given.folder
    if folder:
        rows = [{"case": case, **{name: v._asdict() for name, v in row.items()}} for case, row in verdicts.items()]
        about = {"stamp": given.stamp, "peers": rivals.versions(*PEERS), "tolerance": TOLERANCE}
        measure.replace(folder / "conformance.json", measure.as_lines(about | {"rows": rows}))


if __name__ == "__main__":
    main()
