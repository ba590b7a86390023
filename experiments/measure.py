"""How everything here is measured: compiled apart, blocked until ready, in turn, with the ratio of each pair."""

import argparse
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU's memory PyTorch wants some, too
HERE = Path(__file__).parent
RESULTS = HERE / "results"


class Compiled(NamedTuple):
    """A program, the seconds of tracing and compiling it, and the bytes of temporary memory and of results that it asks for."""

    run: Callable
    compile_seconds: float
    temporary_bytes: int
    output_bytes: int


def compiled(function: Callable, *args) -> Compiled:
    """Compile ahead of time, so that no timing holds a compilation; for shapes as for arrays."""
    began = time.perf_counter()
    run = jax.jit(function).lower(*args).compile()
    seconds, memory = time.perf_counter() - began, run.memory_analysis()
    if memory is None:
        return Compiled(run, seconds, -1, 0)
    return Compiled(run, seconds, memory.temp_size_in_bytes, memory.output_size_in_bytes)


def in_turn(
    programs: dict[str, Callable[[], Any]], seconds: float = 1.0, rounds: int = 7, fewest: int | None = None
) -> dict[str, list[float]]:
    """Time each program once a round, A B C A B C …, so that a drift of the machine's speed meets all alike.

    A figure is the mean over as many calls as fill its share of `seconds`; each program runs twice first, unmeasured.
    Slow programs take longer than `seconds`: with `fewest`, rounds are then left out, down to that many.
    """

    def each_awaited(run, wait, calls):
        return _seconds(lambda: wait(run()), lambda result: result, calls)

    return _in_turn({name: Queue(run) for name, run in programs.items()}, each_awaited, seconds, rounds, fewest)


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
    as in a training loop. A program's first call in a round does not count: it frees what the one before it left. After
    the programs named in `rest` there is a pause, for other frameworks' threads that spin while they wait for more work.
    """

    def one_and_many(run, wait, calls):
        wait(run())
        one = _seconds(run, wait, 1)
        return _seconds(run, wait, calls), one

    found = _in_turn(programs, one_and_many, seconds, rounds, fewest, uncounted=2, rest=rest)
    return {name: Times(*map(list, zip(*pairs, strict=True))) for name, pairs in found.items()}


REST = 0.3  # seconds: OpenMP threads spin for 0.2


def _in_turn(
    programs: dict[str, Queue], timed: Callable, seconds: float, rounds: int, fewest: int | None, uncounted=0, rest=()
) -> dict[str, list]:
    """What `timed` finds of each program in each round, of as many calls as fill its share."""
    calls, slowest = {}, 0.0
    for name, (run, wait) in programs.items():
        wait(run())
        once = _seconds(run, wait, 1)
        calls[name] = max(1, int(seconds / rounds / len(programs) / max(once, 1e-9)) - uncounted)
        slowest += (uncounted + calls[name]) * once
        time.sleep(REST if name in rest else 0)
    if fewest is not None:
        rounds = max(fewest, min(rounds, int(seconds / max(slowest, 1e-9))))
    found: dict[str, list] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (run, wait) in programs.items():
            found[name].append(timed(run, wait, calls[name]))
            time.sleep(REST if name in rest else 0)
    return found


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


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Mean, and in brackets the range."""
    return f"{np.mean(values):.{digits}f} ({np.min(values):.{digits}f} to {np.max(values):.{digits}f})"


def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    """The median, over the rounds, of a's time divided by b's in the same round."""
    return median(x / y for x, y in zip(times[a], times[b], strict=True))


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
    """--quick and --out, and in one line what is wrong with an option."""

    def __init__(self, description: str | None, quick: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--quick", action="store_true", help=f"{quick}; writes only to --out")
        self.add_argument(
            "--out", type=Path, metavar="FOLDER", help="for figures and picture, instead of experiments/results"
        )

    def given(self, argv: list[str] | None = None) -> argparse.Namespace:
        """The options, with the `folder` to write to, if any, and the `stamp` of the beginning."""
        options = self.parse_args(argv)
        folder = options.out or (None if options.quick else RESULTS)
        return argparse.Namespace(**vars(options), folder=folder, stamp=stamp())

    def error(self, message: str) -> NoReturn:
        """End with 2, as any command does that was not understood."""
        self.exit(2, f"{self.prog}: {message} (--help says more)\n")


def arguments(description: str | None, quick: str) -> argparse.Namespace:
    """Of a script that has no options of its own."""
    return Parser(description, quick).given()


def positive(text: str) -> float:
    """A number above 0, of the command line."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


@contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """A bar on stderr while there is a terminal, nothing in a pipe; yields say(what, steps=0)."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, steps=0: bar.update(task, description=what, advance=steps)


def followed(items: Collection, name: Callable[[Any], str] = str) -> Iterator:
    """Each of them, under a bar with its name."""
    with progress(len(items)) as say:
        for item in items:
            say(name(item))
            yield item
            say("", steps=1)


def in_process(function: Callable, *args, **more) -> subprocess.Popen:
    """Call a function of a script in a process of its own; what it prints is piped."""
    module = Path(inspect.getfile(function)).stem
    code = f"import {module}; {module}.{function.__name__}(*{args!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True, **more)


def stamp() -> dict[str, Any]:
    """What the figures were measured on."""
    git = ["git", "-C", str(HERE)]
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


def publish(
    given: argparse.Namespace, name: str, rows: list[dict[str, Any]], draw: Callable[[], Figure] | None = None, **more
) -> None:
    """Write the figures of a run, and the picture that is drawn of them, where it may write; and say where."""
    if given.folder is not None:
        path = save(name, rows, given.folder, stamp=given.stamp, **more)
        if draw:
            save_picture(draw(), path.with_suffix(".png"))
        print(f"{path} and .png" if draw else path)


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


def save_picture(figure: Figure, path: Path) -> None:
    """Write a picture of the figures in the JSON file beside it, with that one's device, date and commit below."""
    about = json.loads(path.with_suffix(".json").read_text())["stamp"]
    figure.supxlabel(caption(about), fontsize=7, color=GREY, x=0.99, ha="right")
    figure.savefig(path)


# one look for every picture
matplotlib.rcParams |= {
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
GREY = "#6b7078"


def ticks(axis: Axis, at: Sequence[float], labels: Iterable[str] | None = None) -> None:
    """These and no others, in full, as a logarithmic axis would not write them."""
    axis.set_ticks(at, [f"{value:,.10g}" for value in at] if labels is None else list(labels))
    axis.set_ticks([], minor=True)


def said_above(axis: Axes, text: str, y: float) -> None:
    """A word at the right end of a horizontal line."""
    at, place = ("axes fraction", "data"), {"textcoords": "offset points", "ha": "right", "fontsize": 8}
    axis.annotate(text, (1, y), (-2, 3), xycoords=at, color="gray", **place)


def draw_digit(axis: Axes, pixels: np.ndarray, title: str, color: str) -> None:
    """One digit, framed."""
    axis.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    axis.set_title(title, fontsize=9, color=color)
    axis.set(xticks=(), yticks=())
    axis.spines[:].set(visible=True, color=color)


class Bar(NamedTuple):
    """Of a ratio, or a word in its place."""

    at: float
    value: float | None
    word: str
    color: str
    bold: bool = False


def draw_ratios(axis: Axes, bars: Iterable[Bar], height: float = 0.74) -> None:
    """Bars that begin at 1, to the left or to the right, each with its figure."""
    for at, value, word, color, bold in bars:
        if value:
            axis.barh(at, value - 1, left=1, height=height, color=color, zorder=2)
        right = not value or value >= 1
        axis.annotate(
            number(value) if value else word,
            (value or 1, at),
            (4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=8 if value else 7.5,
            fontweight="bold" if bold and value else "normal",
            color="black" if value else GREY,
        )
    axis.set_xscale("log")
    axis.axvline(1, color="#333", linewidth=1, zorder=3)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def number(value: float) -> str:
    """Two digits after the point, below 10.

    >>> number(0.8349), number(16.6)
    ('0.83', '17')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


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


def show(title: str, rows: list[dict[str, Any]], columns: Iterable[str] | None = None) -> None:
    """Print an aligned table of the rows, of these columns of them; nothing where there are none."""
    if not rows:
        return
    columns = list(columns or rows[0])
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(figure(row[column]) for column in columns))
    console = Console()
    needed = Console(width=1000).measure(table).maximum
    console.width = max(console.width, min(needed, 200), 140)
    console.print(table)


def figure(value: Any) -> str:
    """Three digits that say something."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)
