"""How near is the hand-derived gradient to what this device can do, and how does it compare? On CPU, GPU and TPU alike.

    python experiments/accelerator_benchmark.py                       # everything, into experiments/results
    python experiments/accelerator_benchmark.py --quick               # under a minute, writes nothing
    python experiments/accelerator_benchmark.py --minutes 8           # the most telling first, as far as it gets
    python experiments/accelerator_benchmark.py --minutes 8 --resume  # on from there, on the same device and commit
    python experiments/accelerator_benchmark.py --only "8-64-64-1" --out here --seconds 1
    python experiments/accelerator_benchmark.py --plot here/accelerator-cpu.json

First the device's own ceilings are measured: memory bandwidth, matrix products and an empty call. Then, by network and
dtype, the number of examples is doubled until a call of `jax.grad` takes 20 times as long as the empty one; at that size the
gradient, the clipped sum and the norms are timed beside the gradient by `jax.grad` of the loss as one would write it, and
beside PyTorch, `vmap(jax.grad)` and others. Calls are queued and waited for once; "awaited" is one call that is waited for.
The least time that the ceilings allow (a roofline: parameters and data read once and the result written once, or the flops of
the products that the derivation needs), divided by the measured time, is the share of the ceiling.

Every program is compared with `vmap(jax.grad)` in float64 before it is timed. What fails is a row that says why. A row is
written as soon as it is there: a run that is killed loses what it was at, and nothing else. One device is used.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import accelerator_plots as plots
import ceilings as roof
import measure
from accelerator_programs import FOR_MODEL, for_network
from cases import EXERCISE, gpt, network
from contest import BASELINE, LEFT_OUT, PENDING, Group, Terms, measure_group
from rivals import Torch

ENOUGH_CALLS = 20  # empty ones, that a call of jax.grad should take
NAME = "accelerator"
SMALL, MIDDLE, DIGITS, WIDE = (8, 64, 64, 1), (64, 128, 128, 10), (784, 512, 512, 10), (4096, 4096, 4096, 4096)
MODEL: tuple[int, ...] = ()  # the GPT
# the most telling first, with how many examples to begin with on a CPU (None: not there) and elsewhere
WORK = (
    (SMALL, "float32", 65_536, 2**20),
    (EXERCISE, "float32", 10_000_000, 2**26),
    (MIDDLE, "float32", 16_384, 2**18),
    (SMALL, "bfloat16", 65_536, 2**20),
    (DIGITS, "float32", 1_024, 2**15),
    (MODEL, "float32", 32, 32),
    (WIDE, "bfloat16", None, 2**12),
    (MODEL, "bfloat16", 32, 32),
    (DIGITS, "bfloat16", 1_024, 2**15),
    (MIDDLE, "bfloat16", 16_384, 2**18),
    (EXERCISE, "bfloat16", 10_000_000, 2**26),
    (WIDE, "float32", None, 2**12),
)
QUICK = ((EXERCISE, "float32", 10_000, None), (SMALL, "bfloat16", 1_024, None), (MODEL, "float32", 8, None))


def work(device: str, torch: Torch) -> list[Group]:
    """The groups in their order, on a "cpu", an "accelerator", or "quick"."""
    model = {"cpu": (128, 4, 64), "accelerator": (512, 4, 128), "quick": (16, 1, 8)}[device]
    found = []
    for what, dtype, on_cpu, elsewhere in QUICK if device == "quick" else WORK:
        start = elsewhere if device == "accelerator" else on_cpu
        if start is not None:
            subject, methods = (gpt(*model), FOR_MODEL) if what == MODEL else (network(what), for_network(torch))
            found.append(Group(subject, dtype, start, methods))
    return found


# ---- what is written


class Ledger:
    """The rows, by network, dtype and method, in a file that is whole at any moment."""

    def __init__(self, folder: Path | None, rows: list[dict], **about):
        self.folder, self.about = folder, about
        self.rows = {key_of(row): row for row in rows}

    def keep(self, row: dict) -> None:
        """A new row, or a newer one in its place."""
        self.rows[key_of(row)] = row
        self.write()

    def write(self, **more) -> Path | None:
        """All there is by now, under the ceilings."""
        self.about |= more
        if self.folder is None:
            return None
        about = self.about | {"ceilings": self.about["ceilings"]._asdict()}
        return measure.save(NAME, self.under_ceilings(), self.folder, **about)

    def under_ceilings(self) -> list[dict]:
        """Each row with the share that it reaches."""
        return [roof.under(self.about["ceilings"], row) for row in self.rows.values()]


def key_of(row: dict) -> tuple[str, str, str]:
    return row["network"], row["dtype"], row["method"]


def finished(group: Group, rows: list[dict]) -> bool:
    """Whether every method has a row, be it with a reason, and none was cut short."""
    here = {row["method"]: row for row in rows if key_of(row)[:2] == (group.subject.name, group.dtype)}
    cut = [row for row in here.values() if row["reason"] in (PENDING, LEFT_OUT)]
    return {BASELINE, *(m.name for m in group.methods)} <= here.keys() and not cut


def resumed(path: Path, about: dict, groups: list[Group]) -> list[dict]:
    """The rows of the groups that an earlier run finished, under the same circumstances.

    Raises:
        ValueError: other circumstances, or a file that is none of ours.
    """
    if not path.exists():
        return []
    try:
        written = json.loads(path.read_text())
        rows, before = written["rows"], {what: written["stamp"][what] for what in CIRCUMSTANCES}
        done = {(g.subject.name, g.dtype) for g in groups if finished(g, rows)}
        kept = [row for row in rows if key_of(row)[:2] in done]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of this benchmark: {error!r}") from None
    for what, value in before.items():
        if value != about[what]:
            raise ValueError(f"{path} is of another {what}, {value}, not {about[what]}: begin anew, or give --out")
    return kept


CIRCUMSTANCES = ("mode", "device", "processor", "commit", "jax", "jaxlib")  # in which figures may stand in one file


# ---- tables


COLUMNS = (
    *("network", "batch", "dtype", "method", "ms", "awaited_ms", "times_faster", "gflops", "share_of_ceiling", "binds"),
    *("compile_s", "temporary_MB", "difference", "difference_default"),
)


def remarks(rows: list[dict], column: str) -> list[dict]:
    """What a column of text says, the same once: where, of which method."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.get(column):
            where.setdefault((row["method"], row[column]), []).append(f"{row['network']}, {row['dtype']}")
    everywhere = {method: sum(row["method"] == method for row in rows) for method, _ in where}
    return [
        {"method": method, column: text, "where": "everywhere" if len(at) == everywhere[method] > 1 else "; ".join(at)}
        for (method, text), at in where.items()
    ]


def say_device(about: dict, ceilings: roof.Ceilings) -> None:
    print(
        f"{about['device']} (1 of {about['devices']} used), {about['memory_GB']} GB for JAX, {about['processor']} x "
        f"{about['processors']}; jax {about['jax']}, {about['runtime']}"
    )
    table = []
    for line in ceilings.details:
        product = line["ceiling"].startswith("products")
        size = f"{line['size']:,} squared" if product else f"{line['size'] / 1e6:,.0f} MB"
        rate = f"{line['rate'] / 1e9:,.4g} {'Gflop/s' if product else 'GB/s'}"
        table.append({"ceiling": line["ceiling"], "dtype": line["dtype"], "measured": rate, "array": size})
    for what, seconds in (("empty call, awaited", ceilings.call), ("empty call, queued", ceilings.queued)):
        table.append({"ceiling": what, "dtype": "-", "measured": f"{1e6 * seconds:.3g} µs", "array": "-"})
    measure.show("What this device can do, measured", table)
    if about["load"] > 0.5:
        print(f"The machine was busy when this began, load {about['load']} on {about['processors']} processors.")


def say_rows(rows: list[dict], left_out: list[str], minutes: float | None) -> None:
    title = "Time queued and awaited, share of the ceiling that binds, error in full and default precision"
    measure.show(title, [row for row in rows if row.get("ms")], COLUMNS)
    measure.show("Notes", remarks(rows, "note"))
    measure.show("Why not more examples", remarks([r for r in rows if r["method"] == BASELINE], "batch_is"))
    measure.show("Not timed", remarks(rows, "reason"))
    if left_out:
        print(f"{minutes:g} minutes were over. Left out: {'; '.join(left_out)}")


# ---- the command


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = measure.Parser(__doc__, "three small cases, no torch.compile: half a minute")
    parser.add_argument(
        "--seconds", type=measure.positive, help="of timing for a network and dtype (4; 0.2 with --quick)"
    )
    parser.add_argument("--minutes", type=measure.positive, help="begin nothing new after so many")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="networks and dtypes with this regular expression"
    )
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run has finished")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the pictures of such a JSON file anew, no more")
    given = parser.given(argv)
    try:
        re.compile(given.only)
    except re.error as error:
        parser.error(f"--only {given.only!r} is no regular expression: {error}")
    if given.plot and not given.plot.is_file():
        parser.error(f"--plot {given.plot}: there is no such file")
    if given.resume and not given.folder:
        parser.error("--resume: --quick writes nothing without --out")
    given.refuse = parser.error
    return given


def run(given: argparse.Namespace, ledger: Ledger, groups: Callable[[Torch], list[Group]]) -> None:
    """Measure, group by group, as long as there is time."""
    began = time.perf_counter()

    def over() -> bool:
        return given.minutes is not None and time.perf_counter() - began > 60 * given.minutes

    how = (0.002, 2**24, 512) if given.quick else (0.02 if measure.on_cpu() else 0.005, 2**28, 2048)
    with measure.progress(1) as say:
        say("the device's ceilings")
        first = roof.measured(*how)
    torch = Torch(
        shortens=first.products["float32"] > 1.2 * first.products["float32 highest"],
        skip_compile="torch.compile is left out of --quick" if given.quick else "",
    )
    ledger.about |= {"ceilings": first, "peers": torch.version, "torch_absent": torch.absent, "left_out": []}
    target = 0.0 if given.quick else ENOUGH_CALLS * first.call
    todo = groups(torch)
    with measure.progress(len(todo)) as say:
        terms = Terms(given.seconds or (0.2 if given.quick else 4.0), target, over, ledger.keep, say)
        for group in todo:
            if over():
                ledger.write(left_out=[*ledger.about["left_out"], str(group)])
            elif not finished(group, list(ledger.rows.values())):
                # another dtype's batch, for a start
                starts = [row["batch"] for row in ledger.rows.values() if row["network"] == group.subject.name]
                measure_group(group._replace(start=max(starts, default=group.start)), terms)
                torch.release()
            say("", steps=1)
    if not (given.quick or over()):
        again = roof.measured(*how)
        drift = {
            what: getattr(again, what)["float32"] / getattr(first, what)["float32"]
            for what in ("bandwidth", "products")
        }
        ledger.write(ceilings=first.highest(again), drift=drift)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if a gradient of ours was wrong."""
    given, began = options(argv), time.perf_counter()
    if given.plot:
        try:
            print(*plots.draw(given.plot), sep="\n")
        except (ValueError, KeyError, TypeError) as error:
            given.refuse(f"--plot {given.plot} is not a file of this benchmark: {error!r}")
        return 0
    device = "quick" if given.quick else "cpu" if measure.on_cpu() else "accelerator"
    about, folder, rows = given.stamp | {"mode": "quick" if given.quick else "whole"}, given.folder, []

    def groups(torch: Torch) -> list[Group]:
        return [group for group in work(device, torch) if re.search(given.only, str(group))]

    known = groups(Torch(shortens=False))
    if not known:
        given.refuse(f"--only {given.only!r}: nothing has that in its name")
    if given.resume and folder is not None:
        try:
            rows = resumed(measure.of_device(NAME, folder), about, known)
        except ValueError as error:
            given.refuse(str(error))
    ledger = Ledger(folder, rows, stamp=about, minutes=given.minutes)
    run(given, ledger, groups)
    rows = ledger.under_ceilings()
    say_device(about, ledger.about["ceilings"])
    say_rows(rows, ledger.about["left_out"], given.minutes)
    print(f"{time.perf_counter() - began:.0f} s")
    path = ledger.write()
    if path is not None:
        print(path, *plots.draw(path), sep="\n")
    return int(any((row["reason"] or "").startswith("WRONG") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
