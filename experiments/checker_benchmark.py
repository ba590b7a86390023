"""Does the gradient checker raise false alarms, and what does it miss? Beside what JAX and PyTorch bring for it.

    python experiments/checker_benchmark.py [--quick] [--networks N] [--first A] [--timed T] [--processes P]

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

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import checker_figures as figures
import jax
import measure
from checker_figures import RIGHT
from checker_layers import LAYERS, at, told
from checker_mistakes import Mistake
from checker_networks import draw_case
from checker_planting import Planted, plant
from checker_rivals import CHECKERS, OURS, applies, judge
from rich.console import Console
from rich.progress import track

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
    named = frozenset(ours)
    return {
        "of": case.number,
        "mistake": m.kind,
        "spot": m.spot,
        "effect_at_the_point": None if planted.here == float("inf") else float(f"{planted.here:.2g}"),
        "called_wrong": {name: verdict.wrong for name, verdict in verdicts.items()},
        "raised": {name: verdict.error for name, verdict in verdicts.items() if verdict.error},
        "diagnoses": ", ".join(f"{path}: {ours[path]}" for path in sorted(ours)),
        "named_exactly": bool(planted.wrong) and named == planted.wrong,
        "named_only_wrong": bool(named) and named <= planted.wrong,
        "diagnosed": any(ours[path] in m.diagnoses for path in named & planted.wrong),
    }


def run_layer(layer: str) -> dict[str, Any]:
    """One layer with its right gradient and its mistakes, seen by ours."""
    value, gradient, mistakes = LAYERS[layer]
    rows = []
    for mistake, (wrong, words) in {RIGHT: (set(), None), **mistakes}.items():
        began = time.perf_counter()
        report = jbp.check_gradient(value, partial(gradient, mistake=mistake), *at(layer))
        said = {row.parameter[2:-2]: row.diagnosis.text for row in report.rows if row.diagnosis}
        named = {row.parameter[2:-2] for row in report.rows if not row.ok}
        rows.append(
            {
                "of": layer,
                "mistake": mistake,
                "spot": "",
                "effect_at_the_point": None,
                "called_wrong": {OURS: not report.ok},
                "raised": {},
                "diagnoses": "; ".join(dict.fromkeys(said.values())),
                "named_exactly": named == wrong,
                "named_only_wrong": bool(named) and named <= wrong,
                "diagnosed": any(told(text, words) for text in said.values()),
                "seconds": round(time.perf_counter() - began, 2),
            }
        )
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


def followed(results: Iterable, total: int) -> Iterator:
    """A progress bar in a terminal, a line now and then in a pipe."""
    if Console().is_terminal:
        yield from track(results, "networks", total=total)
        return
    began = time.perf_counter()
    for i, result in enumerate(results, start=1):
        yield result
        if i % 10 == 0 or i == total:
            print(f"{i} of {total} networks, {time.perf_counter() - began:.0f} s", flush=True)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, written down at once and whole, so that an interrupted run goes on where it was."""
    if not path.exists():
        path.with_suffix(".part").write_text(json.dumps(make()))
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text())


def run_and_keep(folder: Path, of: int | str) -> dict[str, Any]:
    """A network by its number, or a layer by its name."""
    return kept(folder / f"{of}.json", partial(run if isinstance(of, int) else run_layer, of))


def run_all(of: Sequence[int | str], processes: int, folder: Path) -> list[dict[str, Any]]:
    """Every network and layer, in a few processes."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(processes, context, keep_compilations, (cache,)) as pool,
    ):
        return list(followed(pool.map(partial(run_and_keep, folder), of), len(of)))


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


def write_down(
    results: list[dict], layers: list[dict], times: list[dict], about: dict[str, Any], save_as: str | None
) -> None:
    """Show the tables; save them with what went wrong, and the picture."""
    without_effect = sum((Counter(result["without_effect"]) for result in results), start=Counter())
    table = figures.by_mistake(rows_of(results), without_effect)
    seconds = figures.medians(times)
    checkers, of_layers = figures.by_checker(table, seconds), figures.of_layers(layers)
    for title, lines in (("The checkers", checkers), ("Layers", of_layers)):
        measure.show(title, lines)
    if save_as:
        faults = figures.faults([*layers, *rows_of(results)])
        more = {"seconds": seconds, "checkers": checkers, "layers": of_layers, "mistakes": table}
        path = measure.save(save_as, faults, measure.RESULTS, **about, **more)
        figures.plot(table, path.with_suffix(".png"))
        print(f"{path} and .png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six networks, two layers; writes nothing")
    parser.add_argument("--networks", type=int, help=f"how many, {NETWORKS} by default; fewer are saved as {PART}")
    parser.add_argument("--first", type=int, default=0, help="the first one's number")
    parser.add_argument(
        "--keep", type=Path, help="folder for what is done so far; the same command later goes on there"
    )
    parser.add_argument("--timed", type=int, help=f"networks whose checks are timed, {TIMED} by default")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="networks checked at a time")
    given = parser.parse_args()
    count = given.networks or (6 if given.quick else NETWORKS)
    indices, layers = range(given.first, given.first + count), list(LAYERS)[: 2 if given.quick else None]
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        print("torch is not installed: torch.autograd.gradcheck is skipped (pip install torch)")
    timed = given.timed or (2 if given.quick else TIMED)
    timed = indices[:: len(indices) // timed | 1][:timed]  # by an odd step: float32 and float64 alternate
    about: dict[str, Any] = {"stamp": measure.stamp(), "networks": count, "first": given.first}
    about |= {"torch": importlib.metadata.version("torch") if torch else None}
    folder = keeping_folder(given.keep, program(torch))
    print(f"each network and layer is kept in {folder}")
    results = run_all([*layers, *indices], given.processes, folder)
    print(f"timing {len(timed)} networks' checks, nothing compiled before", flush=True)
    times = kept(folder / f"times-{len(indices)}-{len(timed)}.json", partial(time_cold, timed))
    save_as = None if given.quick else "checker" if count >= NETWORKS else PART
    write_down(results[len(layers) :], rows_of(results[: len(layers)]), times, about, save_as)


if __name__ == "__main__":
    main()
