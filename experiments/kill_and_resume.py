"""Is anything lost when training is killed at any moment? kill -9 at random times, then --resume, over and over.

    python experiments/kill_and_resume.py [--quick] [--out FOLDER]

A run of `jaxbackprop train` saves a checkpoint an epoch. It is killed at a random moment after its first epoch and resumed, and
killed again, until it ends; then a new run begins, until enough kills are done. Two counts must be 0: epochs that were
reported but are not in the newest whole checkpoint, and numbers of the final parameters and losses that differ from those
of a run that nobody touched.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

from jaxbackprop.training import npz_store, runs

EPOCHS = 40
TRAIN = [sys.executable, "-m", "jaxbackprop", "train"]
SETTINGS = ["digits", "--hidden", "256", "256", "--batch-size", "8", "--epochs", str(EPOCHS), "--checkpoint-every", "1"]


def start(folder: Path) -> subprocess.Popen:
    """A new run, or the one that is there, in a process of its own."""
    arguments = ["--resume", str(folder)] if (folder / runs.CONFIG).exists() else [*SETTINGS, "--out", str(folder)]
    return subprocess.Popen([*TRAIN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def epochs_reported(folder: Path) -> int:
    """Whole lines of metrics.jsonl."""
    path = folder / runs.METRICS
    return path.read_text().count("\n") if path.exists() else 0


def epochs_saved(folder: Path) -> int:
    """The epoch of the newest checkpoint, which must be whole."""
    newest = npz_store._newest_first(folder / runs.CHECKPOINTS)
    if not newest:
        return 0
    history = npz_store._unpacked(newest[0], newest[0].read_bytes())[0]["history"]
    return history[-1]["epoch"] if history else 0


def outcome(folder: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The final parameters, and the figures of every epoch but for the seconds."""
    with np.load(folder / runs.PARAMS) as file:
        params = {name: file[name] for name in file.files}
    lines = (folder / runs.METRICS).read_text().splitlines()
    return params, [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def differences(a, b) -> int:
    """How many numbers of two outcomes are not the same bits."""
    (params_a, rows_a), (params_b, rows_b) = a, b
    differing = sum(int(np.sum(params_a[name] != params_b[name])) for name in params_a)
    return differing + sum(row_a != row_b for row_a, row_b in zip(rows_a, rows_b, strict=True))


def kill_once(folder: Path, chance: random.Random, fewest: float) -> dict | None:
    """Start or resume, kill at a random moment after training began; None where it ended first."""
    before, process = epochs_reported(folder), start(folder)
    while process.poll() is None and epochs_reported(folder) <= before:
        time.sleep(0.002)
    wait = chance.uniform(0, fewest)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the run ended with status {process.returncode}: {errors.strip()}")
    reported, saved = epochs_reported(folder), epochs_saved(folder)
    return {
        "waited_s": wait,
        "epochs_reported": reported,
        "epochs_saved": saved,
        "epochs_lost": max(0, reported - saved),
    }


def finish(run: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """To its end, if it is not there; and what came of it."""
    if not (run / runs.PARAMS).exists() and start(run).wait() != 0:
        raise SystemExit(f"{run.name} failed")
    return outcome(run)


def main() -> int:
    """Return 1 if anything was lost."""
    given = measure.arguments(__doc__, "three kills: half a minute")
    kills = 3 if given.quick else 50
    chance, rows, differing, finished = random.Random(0), [], 0, 0
    with tempfile.TemporaryDirectory() as folder, measure.progress(kills) as say:
        began = time.perf_counter()
        expected = finish(Path(folder) / "untouched")
        whole = time.perf_counter() - began
        while len(rows) < kills:
            run = Path(folder) / f"run-{finished}"
            while len(rows) < kills and (row := kill_once(run, chance, whole / 8)) is not None:
                rows.append({"run": run.name, **row})
                say(f"killed after {row['epochs_saved']} epochs", steps=1)
            differing += differences(finish(run), expected)
            finished += 1
    lost = sum(row["epochs_lost"] for row in rows)
    totals = {"kills": len(rows), "runs_finished": finished, "epochs_lost": lost, "numbers_that_differ": differing}
    measure.show("kill -9 and resume", [totals])
    measure.publish(given, "kill_and_resume", rows, totals=totals)
    return int(lost > 0 or differing > 0)


if __name__ == "__main__":
    sys.exit(main())
