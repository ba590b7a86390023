"""Does the gradient checker raise false alarms, and what does it miss? Beside what JAX and PyTorch bring for it.

    python experiments/checker_benchmark.py [--quick] [--networks N] [--keep FOLDER] [--out FOLDER]

Layers as people write them (checker_layers.py), and random networks (checker_networks.py: wiring, depth, widths, activations,
loss, batch, bias, dtype), each with its right gradient and with mistakes planted in it (checker_mistakes.py). Which parameters a
mistake truly makes wrong is found without any checker (checker_planting.py), or known of a layer's. A mistake may be without
effect at the given point alone, because all units are off, say: who looks at that point only cannot see it. Such are counted
apart.

False alarm: the right gradient is called wrong. Miss: a planted mistake is called right. Named: the parameters called wrong
are the truly wrong ones, all or some, and no right one; exactly: all. Diagnosed: a truly wrong parameter got the planted
mistake's name, or one that says the same of these numbers: 5% off in a parameter of one entry is a factor. Of a layer the
diagnosis must have certain words.

Ours sees all; the peers (checker_rivals.py) see every fourth pair of networks (float32, float64), once for each gradient.
"""

import json
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import checker_figures as figures
import jax
import measure
import rivals
from checker_figures import RIGHT
from checker_layers import LAYERS, at, told
from checker_mistakes import Mistake
from checker_networks import draw_case
from checker_planting import Planted, plant
from checker_rivals import CHECKERS, OURS, applies, judge

import jaxbackprop as jbp

NETWORKS, TIMED = 200, 10
PART = "checker_part"  # the figures of fewer networks stand beside those of all


# One network, one layer


def run(index: int) -> dict[str, Any]:
    """One network with its right gradient and its mistakes: a row for each, and spots without effect by kind."""
    case = draw_case(index)
    planted, without_effect = plant(case)
    right = Planted(Mistake(RIGHT, "", frozenset(), case.gradient), frozenset(), 0.0)
    rows = [row_of(case, p) for p in (right, *planted)]
    jax.clear_caches()
    return {"rows": rows, "without_effect": without_effect}


def row_of(case, planted: Planted) -> dict[str, Any]:
    """All verdicts on one gradient. A diagnosis counts only on a parameter that is truly wrong."""
    m = planted.mistake
    verdicts = {name: judge(name, case, m.gradient) for name in CHECKERS if applies(name, case)}
    ours = verdicts[OURS].diagnoses
    return {
        "of": case.number,
        "mistake": m.kind,
        "spot": m.spot,
        "effect_at_the_point": None if planted.here == float("inf") else float(f"{planted.here:.2g}"),
        "called_wrong": {name: verdict.wrong for name, verdict in verdicts.items()},
        "raised": {name: verdict.error for name, verdict in verdicts.items() if verdict.error},
        "diagnoses": ", ".join(f"{path}: {ours[path]}" for path in sorted(ours)),
        **naming(ours.keys(), planted.wrong),
        "diagnosed": any(ours[path] in m.diagnoses for path in ours.keys() & planted.wrong),
    }


def naming(named, wrong) -> dict[str, bool]:
    """Whether the parameters that were called wrong are the wrong ones."""
    return {"named_exactly": bool(wrong) and named == wrong, "named_only_wrong": bool(named) and named <= wrong}


def run_layer(layer: str) -> dict[str, Any]:
    """One layer with its right gradient and its mistakes, seen by ours."""
    value, gradient, mistakes = LAYERS[layer]
    rows = []
    for mistake, (wrong, words) in {RIGHT: (set(), None), **mistakes}.items():
        report = jbp.check_gradient(value, partial(gradient, mistake=mistake), *at(layer))
        said = dict.fromkeys(row.diagnosis.text for row in report.rows if row.diagnosis)
        about = {"of": layer, "mistake": mistake, "spot": "", "effect_at_the_point": None}
        about |= {"called_wrong": {OURS: not report.ok}, "raised": {}, "diagnoses": "; ".join(said)}
        about |= naming({row.parameter[2:-2] for row in report.rows if not row.ok}, wrong)
        rows.append(about | {"diagnosed": any(told(text, words) for text in said)})
    return {"rows": rows, "without_effect": {}}


def time_cold(indices: Sequence[int]) -> list[dict]:
    """Seconds for one check with nothing compiled yet, of a right and of a wrong gradient, all checkers in turn."""
    first = draw_case(0)
    for name in CHECKERS:
        if applies(name, first):
            judge(name, first, first.gradient)  # imports
    rows = []
    for i, index in enumerate(indices):
        case = draw_case(index)
        planted, _ = plant(case)
        wrong = planted[i % len(planted)].mistake
        for kind, gradient in ((RIGHT, case.gradient), (wrong.kind, wrong.gradient)):
            row: dict[str, Any] = {"of": index, "mistake": kind}
            for name in CHECKERS:
                if applies(name, case):
                    jax.clear_caches()
                    row[name] = judge(name, case, gradient).seconds
            rows.append(row)
    return rows


# All of them, kept as they are done


def keep_compilations(folder: str) -> None:
    """The mistakes of one network are checked against the same value: what is compiled for it once is kept."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, written down at once and whole, so that an interrupted run goes on where it was."""
    if not path.exists():
        path.with_suffix(".part").write_text(json.dumps(make()))
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text())


def run_and_keep(folder: Path, of: int | str) -> dict[str, Any]:
    """A network by its number, or a layer by its name."""
    return kept(folder / f"{of}.json", partial(run if isinstance(of, int) else run_layer, of))


def run_all(of: Sequence[int | str], folder: Path) -> list[dict[str, Any]]:
    """Every network and layer, in as many processes as there are processors."""
    context, found = multiprocessing.get_context("spawn"), []
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(os.cpu_count(), context, keep_compilations, (cache,)) as pool,
        measure.progress(len(of)) as say,
    ):
        for result in pool.map(partial(run_and_keep, folder), of):
            found.append(result)
            say("networks", steps=1)
    return found


def program(torch: bool) -> dict:
    """What must be the same for a run to go on: of the stamp all but the hour's load, memory and date."""
    stamp = measure.stamp()
    return {key: stamp[key] for key in ("device", "processor", "jax", "jaxlib", "commit")} | {"torch": torch}


def keeping_folder(given: Path | None, made_for: dict) -> Path:
    """The folder that holds what is done so far, if it was done by the same program on the same device."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="checker-"))
    given.mkdir(parents=True, exist_ok=True)
    if kept(given / "made-for.json", lambda: made_for) != made_for:
        raise SystemExit(f"{given} holds networks checked by another commit or version: give --keep a new folder")
    return given


def rows_of(results: Iterable[dict]) -> list[dict]:
    """All gradients in one list."""
    return [row for result in results for row in result["rows"]]


def main() -> None:
    parser = measure.Parser(__doc__, "one network, one layer: under a minute")
    parser.add_argument("--networks", type=int, help=f"how many, {NETWORKS} by default; fewer are saved as {PART}")
    parser.add_argument(
        "--keep", type=Path, help="folder for what is done so far; the same command later goes on there"
    )
    given = parser.given()
    count = given.networks or (1 if given.quick else NETWORKS)
    indices, layers = range(count), list(LAYERS)[: 1 if given.quick else None]
    torch = not rivals.missing("torch")
    folder = keeping_folder(given.keep, program(torch))
    print(f"each network and layer is kept in {folder}")
    results = run_all([*layers, *indices], folder)
    timed = 2 if given.quick else TIMED
    timed = indices[:: len(indices) // timed | 1][:timed]  # by an odd step: float32 and float64 alternate
    times = kept(folder / f"times-{count}-{len(timed)}.json", partial(time_cold, timed))
    of_layers, of_networks = rows_of(results[: len(layers)]), rows_of(results[len(layers) :])
    without_effect = sum((Counter(result["without_effect"]) for result in results), start=Counter())
    table, seconds = figures.by_mistake(of_networks, without_effect), figures.medians(times)
    tables = {"checkers": figures.by_checker(table, seconds), "layers": figures.of_layers(of_layers)}
    for title, lines in tables.items():
        measure.show(title, lines)
    more = {"networks": count, **rivals.versions("torch"), "seconds": seconds, **tables, "mistakes": table}
    faults = figures.faults([*of_layers, *of_networks])
    measure.publish(given, "checker" if count >= NETWORKS else PART, faults, partial(figures.plot, table), **more)


if __name__ == "__main__":
    main()
