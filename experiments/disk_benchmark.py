"""What training from a disk costs beside training from memory, and how much memory it takes.

    python experiments/disk_benchmark.py [--quick]

The same rows four ways: arrays in memory, a pair of .npy files, a folder of .parquet files, and these decoded once, in the
first epoch (`spilled`). Each trains in a process of its own, in turn, several rounds. Figures: seconds an epoch after the
first, which compiles, and the most memory
that the process ever had of its own (pages of a mapped file, which the system may take back at any time, are not counted).
The files have just been written, so that they are read from the system's cache: this is the cost of our reading, not the disk's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np

WAYS = ("memory", "npy", "parquet", "spilled")
CASES = {  # widths, rows, batch
    "wide": ((256, 512, 512, 1), 200_000, 512),
    "narrow": ((64, 64, 64, 1), 800_000, 512),
    "narrowest": ((8, 16, 1), 4_000_000, 4096),
}
EPOCHS = 4


def write(folder: Path, widths, rows: int) -> None:
    """The rows as .npy and as .parquet, a part at a time."""
    import pyarrow
    import pyarrow.parquet

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


def train(way: str, folder: Path, case: str) -> None:
    """In a process of its own: train, and print the seconds of each epoch."""
    import jax
    import optax

    import jaxbackprop as jbp
    from jaxbackprop import blocks

    widths, _, batch = CASES[case]
    if way == "memory":
        data = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    elif way == "npy":
        data = blocks.open_npy(folder / "x.npy", folder / "y.npy")
    else:
        data = blocks.open_parquet(folder / "parquet")
        data = blocks.spilled(data, folder) if way == "spilled" else data
    _, history = jbp.fit(
        jbp.mlp(widths, bias=True),
        "half_squared_error",
        optax.adam(1e-3),
        data,
        epochs=EPOCHS,
        batch_size=batch,
        key=jax.random.key(0),
    )
    ends = [row["seconds"] for row in history]
    print(json.dumps({"epochs": np.diff(ends).tolist(), "loss": history[-1]["loss"]}))


def watched(way: str, folder: Path, case: str) -> dict:
    """Run one way, and follow its memory."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--case", case]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the narrow network once; writes nothing")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        train(given.way, given.folder, given.case)
        return
    rounds, rows = (1, []) if given.quick else (3, [])
    cases = ["narrow"] if given.quick else list(CASES)
    with measure.progress(len(cases) * rounds * len(WAYS)) as say:
        for case in cases:
            widths, examples, batch = CASES[case]
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write(folder, widths, examples)
                found: dict[str, list[dict]] = {way: [] for way in WAYS}
                for _ in range(rounds):
                    for way in WAYS:
                        found[way].append(watched(way, folder, case))
                        say(f"{case} from {way}", steps=1)
            seconds = {way: [measure.median(run["epochs"]) for run in runs] for way, runs in found.items()}
            for way in WAYS:
                rows.append(
                    {
                        "network": "-".join(map(str, widths)),
                        "from": way,
                        "rows": examples,
                        "batch": batch,
                        "data_MB": examples * (widths[0] + 1) * 4 / 2**20,
                        "epoch_s": measure.median(seconds[way]),
                        "us_an_example": 1e6 * measure.median(seconds[way]) / examples,
                        "times_memory": measure.ratio(seconds, way, "memory"),
                        "memory_MB": max(run["memory_MB"] for run in found[way]),
                        "last_loss": found[way][0]["loss"],
                    }
                )
    measure.show("Training from memory and from a disk", rows)
    if not given.quick:
        print(measure.save("disk", rows))


if __name__ == "__main__":
    main()
