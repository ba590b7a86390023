"""How everything here is measured: compiled apart, blocked until ready, in turn, with the ratio of each pair."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


class Compiled(NamedTuple):
    """A program, the seconds that it took to compile, and the bytes of temporary memory that it asks for."""

    run: Callable
    compile_seconds: float
    temporary_bytes: int


def compiled(function: Callable, *args) -> Compiled:
    """Compile ahead of time, so that no timing holds a compilation."""
    lowered = jax.jit(function).lower(*args)
    began = time.perf_counter()
    run = lowered.compile()
    seconds = time.perf_counter() - began
    memory = run.memory_analysis()
    return Compiled(run, seconds, memory.temp_size_in_bytes if memory else -1)


def in_turn(
    programs: dict[str, Callable[[], Any]],
    seconds: float = 1.0,
    rounds: int = 7,
    fewest: int | None = None,
    rest: Collection[str] = (),
) -> dict[str, list[float]]:
    """Time each program once a round, A B C A B C …, so that a drift of the machine's speed meets all alike.

    A figure is the mean over as many calls as fill its share of `seconds`; each program runs twice first, unmeasured.
    Slow programs take longer than `seconds`: with `fewest`, rounds are then left out, down to that many. After the
    programs named in `rest` there is a pause, for other frameworks' threads that spin while they wait for more work.
    """
    calls, rounds = _plan(
        {name: (run, jax.block_until_ready) for name, run in programs.items()}, seconds, rounds, fewest, rest
    )
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                jax.block_until_ready(run())
            times[name].append((time.perf_counter() - began) / calls[name])
            time.sleep(REST if name in rest else 0)
    return times


REST = 0.3  # seconds: OpenMP threads spin for 0.2


def _plan(programs, seconds, rounds, fewest, rest, uncounted=0) -> tuple[dict[str, int], int]:
    """How many calls of each program fill its share of a round, and how many rounds there are."""
    calls, slowest = {}, 0.0
    for name, (run, wait) in programs.items():
        wait(run())
        began = time.perf_counter()
        wait(run())
        once = time.perf_counter() - began
        calls[name] = max(1, int(seconds / rounds / len(programs) / max(once, 1e-9)) - uncounted)
        slowest += (uncounted + calls[name]) * once
        time.sleep(REST if name in rest else 0)
    if fewest is not None:
        rounds = max(fewest, min(rounds, int(seconds / max(slowest, 1e-9))))
    return calls, rounds


class Queue(NamedTuple):
    """A call that gives out work and need not wait for it, and what waits until its result is there."""

    run: Callable[[], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready


class Times(NamedTuple):
    """Seconds a call, a figure for each round: of calls given out together, and of one that is waited for."""

    queued: list[float]
    awaited: list[float]


def queued_in_turn(
    programs: dict[str, Queue], seconds: float = 1.0, rounds: int = 7, fewest: int = 3, rest: Collection[str] = ()
) -> dict[str, Times]:
    """As `in_turn`, but a round's calls are given out one after the other, and only the last is waited for.

    A device works through them in order, so the way to a GPU and back, tens of µs, is paid once and not in every call,
    as in a training loop. A program's first call in a round does not count: it frees what the one before it left.
    """
    calls, rounds = _plan(programs, seconds, rounds, fewest, rest, uncounted=2)
    times = {name: Times([], []) for name in programs}
    for _ in range(rounds):
        for name, (run, wait) in programs.items():
            wait(run())
            times[name].awaited.append(_seconds(run, wait, 1))
            times[name].queued.append(_seconds(run, wait, calls[name]))
            time.sleep(REST if name in rest else 0)
    return times


def _seconds(run, wait, calls: int) -> float:
    """A call's, of so many."""
    began = time.perf_counter()
    for _ in range(calls - 1):
        run()
    wait(run())
    return (time.perf_counter() - began) / calls


def best_of(run: Callable[[], Any], times: int = 3, queue: int = 1) -> float:
    """The shortest of a few calls, or of a few queues of calls, after one unmeasured: for choosing, not for reporting."""
    jax.block_until_ready(run())
    return min(_seconds(run, jax.block_until_ready, queue) for _ in range(times))


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Mean, and in brackets the range."""
    return f"{np.mean(values):.{digits}f} ({np.min(values):.{digits}f} to {np.max(values):.{digits}f})"


def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    """The median, over the rounds, of a's time divided by b's in the same round."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def largest_difference(given, expected) -> float:
    """Over the leaves of two gradients, the largest difference relative to that leaf's largest entry."""
    return _largest(given, expected, lambda a: np.max(np.abs(a)))


def relative_error(given, expected) -> float:
    """Over the leaves of two gradients, the largest norm of a difference relative to that leaf's norm.

    Better than `largest_difference` for short types: a unit whose z rounds to the other side of zero moves its own row by a
    quarter where four examples make it up, but hardly the norm of thousands of rows.
    """
    return _largest(given, expected, np.linalg.norm)


def _largest(given, expected, size: Callable[[np.ndarray], Any]) -> float:
    errors = []
    for g, e in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        g64, e64 = np.asarray(g, np.float64), np.asarray(e, np.float64)
        errors.append(size(g64 - e64) / max(size(e64), 1e-30))
    return float(np.max(errors, initial=0.0))  # unlike Python's max, it keeps NaN


NO_MEMORY = "out of memory"


def reason(error: BaseException) -> str:
    """Why something could not be measured, in one line."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or isinstance(error, MemoryError):
        return f"{NO_MEMORY}: {first}"[:160]
    return (first or type(error).__name__)[:160]


def on_cpu() -> bool:
    """Whether JAX computes on one here."""
    return jax.devices()[0].platform == "cpu"


def memory() -> tuple[int, int]:
    """Bytes of memory that the device has, and that are free; of the host's where the device has none of its own."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    page = os.sysconf("SC_PAGE_SIZE")
    whole = page * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return whole, next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return whole, whole // 2


def require_memory(needed: int) -> None:
    """Refuse what would not fit, before a host without memory left stops the whole run.

    Raises:
        MemoryError: more than nine tenths of what is free.
    """
    free = memory()[1]
    if needed > 0.9 * free:
        raise MemoryError(f"{needed / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free")


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an option."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """End with 2, as any command does that was not understood."""
        self.exit(2, f"{self.prog}: {message} (--help says more)\n")


def positive(text: str) -> float:
    """A number above 0, of the command line."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def arguments(description: str | None, quick: str) -> tuple[bool, Path | None]:
    """--quick and --out of the command line: whether to be quick, and the folder to write to, if any."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; writes only to --out")
    parser.add_argument("--out", type=Path, help="folder for figures and picture, experiments/results by default")
    given = parser.parse_args()
    return given.quick, given.out or (None if given.quick else RESULTS)


@contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """A bar on stderr while there is a terminal, nothing in a pipe; yields say(what, steps=0)."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, steps=0: bar.update(task, description=what, advance=steps)


def stamp() -> dict[str, Any]:
    """What the figures were measured on."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    code = ["../jaxbackprop", ".", ":(exclude)results"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True, check=False)
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "memory_GB": round(memory()[0] / 1e9, 1),
        "runtime": " ".join(device.client.platform_version.split()),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # of this minute: above 0, others were at work
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
        "commit": commit.stdout.strip() + ("+changes" if changed.stdout.strip() else ""),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def of_device(name: str, folder: Path = RESULTS) -> Path:
    """Where the figures of this kind of device go: results/NAME-cpu.json, results/NAME-nvidia-h200.json."""
    return folder / f"{name}-{slug(jax.devices()[0].device_kind)}.json"


def slug(text: str) -> str:
    """For a file's name.

    >>> slug("NVIDIA GeForce RTX 4090")
    'nvidia-geforce-rtx-4090'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def save(name: str, rows: list[dict[str, Any]], folder: Path = RESULTS, **more) -> Path:
    """Write results/NAME-DEVICE.json, a row a line; with stamp=… what was true when the measuring began."""
    path = of_device(name, folder)
    replace(path, as_lines({"stamp": more.pop("stamp", None) or stamp(), **more, "rows": rows}))
    return path


def replace(path: Path, text: str) -> None:
    """Write the whole or nothing: whoever is killed meanwhile leaves the file as it was."""
    path.parent.mkdir(exist_ok=True, parents=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def caption(about: dict[str, Any]) -> str:
    """Of a picture: the device, the date and the commit of a stamp."""
    platform, _, kind = about["device"].partition(": ")
    device = f"{about['processor']}, {about['processors']} CPU cores" if platform == "cpu" else kind
    return f"{device} · jax {about['jax']} · {about['date']} · commit {about['commit']}"


def save_picture(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a picture of the figures in the JSON file beside it, with that one's device, date and commit below."""
    stamp = json.loads(path.with_suffix(".json").read_text())["stamp"]
    figure.supxlabel(caption(stamp), fontsize=7, color="#777777", x=0.99, ha="right")
    figure.savefig(path, dpi=dpi)


def as_lines(written: dict[str, Any]) -> str:
    """JSON with a line for each row of a list, and for each entry of a dict.

    >>> print(as_lines({"seeds": 2, "rows": [{"a": [1, 2]}, {"a": [3]}]}), end="")
    {
     "seeds": 2,
     "rows": [
      {"a": [1, 2]},
      {"a": [3]}
     ]
    }
    """
    entries = [f" {json.dumps(name)}: {_in_lines(value)}" for name, value in written.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _in_lines(value: Any) -> str:
    if isinstance(value, dict):
        lines, (first, last) = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()], "{}"
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        lines, (first, last) = [json.dumps(each) for each in value], "[]"
    else:
        return json.dumps(value)
    return f"{first}\n  " + ",\n  ".join(lines) + f"\n {last}"


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print an aligned table."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(figure(value) for value in row.values()))
    console = Console()
    needed = Console(width=1000).measure(table).maximum
    console.width = max(console.width, min(needed, 200), 140)
    console.print(table)


def figure(value: Any) -> str:
    """Three digits that say something."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)
