"""What training from a disk costs beside training from memory, and how much memory it takes.

    python experiments/disk_benchmark.py [--quick] [--out FOLDER]

The same rows four ways: arrays in memory, a pair of .npy files, a folder of .parquet files, and these decoded once, in the
first epoch (`spilled`). Each trains in a process of its own, in turn, several rounds. Figures: seconds an epoch after the first,
which compiles, and the most memory that the process ever had of its own (pages of a mapped file, which the system may take back
at any time, are not counted).
The files have just been written, so that they are read from the system's cache: this is the cost of our reading, not the disk's.
"""

import json
import tempfile
import time
from pathlib import Path

import jax
import measure
import numpy as np
import optax
import pyarrow
import pyarrow.parquet

import jaxbackprop as jbp
from jaxbackprop import blocks

WAYS = ("memory", "npy", "parquet", "spilled")
CASES = {  # widths, rows, batch
    "wide": ((256, 512, 512, 1), 200_000, 512),
    "narrow": ((64, 64, 64, 1), 800_000, 512),
    "narrowest": ((8, 16, 1), 4_000_000, 4096),
}
EPOCHS = 4


def write(folder: Path, widths, rows: int) -> None:
    """The rows as .npy and as .parquet, a part at a time."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", (rows, widths[0]))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", "float32", (rows, 1))
    (folder / "parquet").mkdir()
    for i, start in enumerate(range(0, rows, 50_000)):
        part = slice(start, min(start + 50_000, rows))
        x[part] = rng.normal(size=x[part].shape)
        y[part] = np.tanh(x[part, :4].sum(axis=1, keepdims=True))
        columns = {f"x{j}": np.ascontiguousarray(x[part, j]) for j in range(widths[0])} | {"y": y[part, 0].copy()}
        path = folder / "parquet" / f"part-{i:04d}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=10_000)
    x.flush()
    y.flush()


def train(way: str, name: str, case: str) -> None:
    """In a process of its own: train, and print the seconds of each epoch."""
    folder, (widths, _, batch) = Path(name), CASES[case]
    if way == "memory":
        data = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    elif way == "npy":
        data = blocks.open_npy(folder / "x.npy", folder / "y.npy")
    else:
        data = blocks.open_parquet(folder / "parquet")
        data = blocks.spilled(data, folder) if way == "spilled" else data
    network, adam, key = jbp.mlp(widths, bias=True), optax.adam(1e-3), jax.random.key(0)
    _, history = jbp.fit(network, "half_squared_error", adam, data, epochs=EPOCHS, batch_size=batch, key=key)
    ends = [row["seconds"] for row in history]
    print(json.dumps({"epochs": np.diff(ends).tolist(), "loss": history[-1]["loss"]}))


def watched(way: str, folder: Path, case: str) -> dict:
    """Run one way, and follow its memory."""
    process = measure.in_process(train, way, str(folder), case)
    most = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            most = max(most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        except (OSError, TypeError):
            pass
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{way} failed")
    return json.loads(process.communicate()[0]) | {"memory_MB": most / 1024}


def measured(case: str, rounds: int) -> list[dict]:
    """A row for each way."""
    widths, examples, batch = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, widths, examples)
        each = [{way: watched(way, folder, case) for way in WAYS} for _ in range(rounds)]
    runs = {way: [found[way] for found in each] for way in WAYS}
    seconds = {way: [measure.median(run["epochs"]) for run in found] for way, found in runs.items()}
    return [
        {
            "network": "-".join(map(str, widths)),
            "from": way,
            "rows": examples,
            "batch": batch,
            "data_MB": examples * (widths[0] + 1) * 4 / 2**20,
            "epoch_s": measure.median(seconds[way]),
            "us_an_example": 1e6 * measure.median(seconds[way]) / examples,
            "times_memory": measure.ratio(seconds, way, "memory"),
            "memory_MB": max(run["memory_MB"] for run in runs[way]),
            "last_loss": runs[way][0]["loss"],
        }
        for way in WAYS
    ]


def main() -> None:
    given = measure.arguments(__doc__, "the narrow network once: half a minute")
    cases, rounds = (["narrow"], 1) if given.quick else (list(CASES), 3)
    rows = [row for case in measure.followed(cases) for row in measured(case, rounds)]
    measure.show("Training from memory and from a disk", rows)
    measure.publish(given, "disk", rows)


if __name__ == "__main__":
    main()
