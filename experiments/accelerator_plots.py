"""The pictures of the accelerator benchmark, drawn from its written figures alone."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
from ceilings import CLIPPED, DTYPES, GRADIENT, NORMS
from contest import BASELINE, OURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

COLORS = {GRADIENT: "#4269d0", CLIPPED: "#3ca951", NORMS: "#a463f2"}
OTHERS = {"jax.grad": "#8a8f98", "vmap(jax.grad)": "#c3c7cd", "torch": "#efb118", "NumPy": "#ff725c"}
SHAPES = {GRADIENT: ("o", 11), CLIPPED: ("s", 8), NORMS: ("^", 7)}  # where they lie on one another, each is seen
HOLLOW: dict[str, Any] = {"marker": "D", "linestyle": "", "markersize": 8, "markerfacecolor": "none"}
HOLLOW |= {"markeredgecolor": "#333", "zorder": 25}
MOST_ROWS = 10  # of a panel


def draw(path: Path) -> list[Path]:
    """Both pictures, beside the JSON file that they are of; none where nothing was timed."""
    written = json.loads(path.read_text())
    rows = written["rows"]
    if not any(row.get("times_faster") for row in rows if row["method"] != BASELINE):
        return []
    caption = measure.caption(written["stamp"])
    figures = {
        path.with_suffix(".png"): ratios(rows, caption),
        path.with_name(f"{path.stem}-roofline.png"): roofline(rows, written["ceilings"], caption),
    }
    for name, figure in figures.items():
        figure.savefig(name)
    return list(figures)


def is_ours(row: dict) -> bool:
    return row["method"].startswith(OURS)


# ---- how many times faster than jax.grad


def ratios(rows: list[dict], caption: str) -> Figure:
    """A panel for each network and dtype, in columns by dtype; bars begin at jax.grad, 1."""
    cells = panels(rows)
    networks = list(dict.fromkeys(network for network, _ in cells))
    dtypes = [dtype for dtype in DTYPES if any(dtype == other for _, other in cells)]
    methods = {n: ordered([row for d in dtypes for row in cells.get((n, d), [])]) for n in networks}
    heights = [len(methods[n]) + 0.4 for n in networks]
    size = 2 + 4.8 * len(dtypes), 1.3 + sum(0.2 * h + 0.42 for h in heights)
    figure = Figure(figsize=size)
    grid = figure.subplots(len(networks), len(dtypes), squeeze=False, sharex=True, sharey="row", height_ratios=heights)
    values = [row["times_faster"] for row in rows if row.get("times_faster")]
    for line, network in zip(grid, networks, strict=True):
        line[0].set_ylim(len(methods[network]) - 0.4, -0.8)
        line[0].set_yticks(range(len(methods[network])), methods[network], fontsize=8)
        for axis, dtype in zip(line, dtypes, strict=True):
            cell = cells.get((network, dtype), [])
            bars(axis, {methods[network].index(row["method"]): row for row in cell})
            size = f"{cell[0]['batch']:,} examples" if cell else "not measured"
            axis.set_title(f"{network}, {dtype}: {size}", fontsize=9, loc="left")
    grid[0][0].set_xlim(min(0.5, *values) / 2.5, max(4, *values) * 2.5)
    for axis in grid[-1]:
        axis.set_xlabel("times faster than jax.grad's plain gradient (log scale)", fontsize=9)
    ncols = 2 * len(dtypes)
    figure.legend(handles=patches(rows), loc="outside upper left", ncols=ncols, fontsize=9)
    figure.supxlabel(caption, fontsize=8, color=measure.GREY, x=0.99, ha="right")
    return figure


def panels(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """By network and dtype at most ten rows: what was timed, then what failed here but was timed elsewhere."""
    timed_somewhere = {row["method"] for row in rows if row.get("times_faster")}
    found: dict[tuple[str, str], list[dict]] = {(row["network"], row["dtype"]): [] for row in rows}
    for row in sorted(rows, key=lambda row: not row.get("times_faster")):
        cell = found[row["network"], row["dtype"]]
        if row["method"] != BASELINE and row["method"] in timed_somewhere and len(cell) < MOST_ROWS:
            cell.append(row)
    return {key: cell for key, cell in found.items() if cell}


def ordered(rows: list[dict]) -> list[str]:
    """The methods: by what they give, and ours first."""
    quantities = list(COLORS)
    rows = sorted(rows, key=lambda row: (quantities.index(row["quantity"]), not is_ours(row)))
    return list(dict.fromkeys(row["method"] for row in rows))


def color(row: dict) -> str:
    """Ours by what it gives, others by whose they are."""
    return COLORS[row["quantity"]] if is_ours(row) else OTHERS[row["method"].replace(",", " ").split()[0]]


def bars(axis: Axes, rows: dict[int, dict]) -> None:
    """By place; what failed is a word."""
    measure.draw_ratios(axis, [bar(place, row) for place, row in rows.items()])
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    if not rows:
        axis.spines["bottom"].set_visible(False)
        axis.grid(visible=False)


def bar(place: int, row: dict) -> measure.Bar:
    """One method."""
    return measure.Bar(place, row.get("times_faster"), shortly(row["reason"] or ""), color(row), is_ours(row))


def shortly(reason: str) -> str:
    """Its first words.

    >>> shortly("out of memory: RESOURCE_EXHAUSTED: 7 bytes"), shortly("WRONG by 0.3: not timed")
    ('out of memory', 'WRONG by 0.3: not timed')
    """
    return reason if len(reason) < 30 else re.split("[:,]", reason)[0][:40]


def patches(rows: list[dict]) -> list:
    """The legend: what there is of ours by quantity, and of others."""
    timed = [row for row in rows if row.get("times_faster")]
    ours = {row["quantity"] for row in timed if is_ours(row)}
    others = {color(row) for row in timed if not is_ours(row) and row["method"] != BASELINE}
    labels = {"jax.grad": "jax.grad, tuned", "NumPy": "NumPy by hand"}
    found = [Patch(color=shade, label=f"jaxbackprop: {q}") for q, shade in COLORS.items() if q in ours]
    found += [Patch(color=shade, label=labels.get(name, name)) for name, shade in OTHERS.items() if shade in others]
    return [*found, Line2D([], [], color="#333", label="jax.grad as one writes it = 1")]


# ---- the roofline


def roofline(rows: list[dict], ceilings: dict, caption: str) -> Figure:
    """A panel for each dtype: flops by byte against what was reached, under the two measured ceilings; networks are letters."""
    points = best(rows)
    dtypes = [dtype for dtype in DTYPES if any(row["dtype"] == dtype for row in points)]
    letters = {name: chr(ord("A") + i) for i, name in enumerate(dict.fromkeys(row["network"] for row in points))}
    figure = Figure(figsize=(1 + 5.6 * len(dtypes), 6.2))
    grid = figure.subplots(1, len(dtypes), squeeze=False, sharex=True, sharey=True)[0]
    low, high = min(r["intensity"] for r in points) / 6, max(r["intensity"] for r in points) * 4
    top = max(ceilings["products"][dtype] for dtype in dtypes) / 1e9
    grid[0].set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(r["gflops"] for r in points) / 4, 3 * top))
    for axis, dtype in zip(grid, dtypes, strict=True):
        here = [row for row in points if row["dtype"] == dtype]
        roof(axis, ceilings, dtype, low, high)
        for name in letters:
            column = sorted((r["intensity"], r["gflops"]) for r in here if r["network"] == name)
            axis.plot(*zip(*column, strict=True), color="#c9ced6", linewidth=1) if column else None
        for row in here:
            axis.plot(
                row["intensity"], row["gflops"], **(HOLLOW if row["method"] == BASELINE else marker(row["quantity"]))
            )
        name_columns(axis, here, letters)
        axis.grid()
        axis.set_title(dtype, fontsize=10)
        axis.set_xlabel("flops for each byte that must move", fontsize=9)
    grid[0].set_ylabel("flop/s reached")
    grid[0].yaxis.set_major_formatter(lambda value, _: flops(1e9 * value))
    handles = [Line2D([], [], **marker(q), label=f"jaxbackprop: {q}") for q in COLORS]
    handles += [
        Line2D([], [], **HOLLOW, label="jax.grad: gradient"),
        Line2D([], [], color="#333", label="measured ceilings"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1 + 2 * len(dtypes), fontsize=9)
    names = [
        Line2D([], [], linestyle="", label=f"{letter}   {legend(name, points)}") for name, letter in letters.items()
    ]
    table = figure.legend(handles=names, loc="outside lower left", ncols=2, fontsize=8.5, handlelength=0, title=caption)
    table.set_alignment("left")
    table.get_title().set(fontsize=8, color=measure.GREY)
    return figure


def flops(value: float) -> str:
    """In Gflop/s, or Tflop/s.

    >>> flops(434e12), flops(1.5e11)
    ('434 Tflop/s', '150 Gflop/s')
    """
    return f"{value / 1e12:,.4g} Tflop/s" if value >= 1e12 else f"{value / 1e9:,.4g} Gflop/s"


def best(rows: list[dict]) -> list[dict]:
    """Of each network, dtype and quantity the baseline, and our fastest way that was timed."""
    found: dict[tuple, dict] = {}
    for row in rows:
        if row.get("ms") and (is_ours(row) or row["method"] == BASELINE):
            key = row["network"], row["dtype"], row["quantity"], is_ours(row)
            if key not in found or row["ms"] < found[key]["ms"]:
                found[key] = row
    return list(found.values())


def marker(quantity: str) -> dict[str, Any]:
    """Ours."""
    shape, size = SHAPES[quantity]
    edge = {"markeredgecolor": "white", "zorder": 20 - size}
    return {"marker": shape, "markersize": size, "color": COLORS[quantity], "linestyle": ""} | edge


def roof(axis: Axes, ceilings: dict, dtype: str, low: float, high: float) -> None:
    """Memory to the left, products to the right; the figures stand above the lines."""
    bandwidth, rate = ceilings["bandwidth"][dtype] / 1e9, ceilings["products"][dtype] / 1e9
    full = ceilings["products"].get(f"{dtype} highest", rate * 1e9) / 1e9
    x = np.geomspace(low, high, 500)
    axis.plot(x, np.minimum(bandwidth * x, rate), color="#333", linewidth=1.5)
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    axis.annotate(f"products {flops(1e9 * rate)}", (high, rate), (-2, 5), ha="right", **text)
    axis.annotate(f"memory {bandwidth:,.4g} GB/s", (rate / bandwidth / 4, rate / 4), (8, -4), va="center", **text)
    if full < 0.9 * rate:
        axis.axhline(full, color="#999", linewidth=1, linestyle=":")
        axis.annotate(f"in full float32 {flops(1e9 * full)}", (low, full), (4, 4), color=measure.GREY, **text)


def name_columns(axis: Axes, rows: list[dict], letters: dict[str, str]) -> None:
    """A network's letter stands under its lowest point, and lower, at a line, where it would meet another's, or a point."""
    points = {
        name: [(np.log10(r["intensity"]), np.log10(r["gflops"])) for r in rows if r["network"] == name]
        for name in letters
    }
    lowest = {name: min(of, key=lambda point: point[1]) for name, of in points.items() if of}
    high = 0.045 * float(np.diff(np.log10(axis.get_ylim()))[0])  # of a letter, and of a mark
    wide = 0.035 * float(np.diff(np.log10(axis.get_xlim()))[0])
    taken = [point for of in points.values() for point in of]
    wanted = [(x, y - 0.1 * high) for x, y in lowest.values()]
    for name, (x, y) in zip(lowest, apart(wanted, taken, wide, high), strict=True):
        at, text = (10 ** lowest[name][0], 10 ** lowest[name][1]), (10**x, 10**y)
        line = {"arrowstyle": "-", "color": "#999", "linewidth": 0.7, "shrinkB": 5, "shrinkA": 1, "zorder": 0}
        axis.annotate(letters[name], at, text, ha="center", va="center", fontsize=9, fontweight="bold", arrowprops=line)


Point = tuple[float, float]


def apart(points: Sequence[Point], taken: Sequence[Point], wide: float, high: float) -> list[Point]:
    """From the top down, each lowered until it is clear of what is taken and of those before it.

    >>> apart([(0, 4.5), (0, 5), (9, 4.9)], taken=[(9, 4.8)], wide=1, high=1)
    [(0, 4), (0, 5), (9, 3.8)]
    """
    placed: dict[int, Point] = {}
    for i in sorted(range(len(points)), key=lambda i: -points[i][1]):
        x, y = points[i]
        for other_x, other_y in sorted([*taken, *placed.values()], key=lambda point: -point[1]):
            if abs(x - other_x) < wide and abs(y - other_y) < high:
                y = other_y - high
        placed[i] = x, y
    return [placed[i] for i in range(len(points))]


def legend(name: str, rows: list[dict]) -> str:
    """A network, and how many examples of each dtype."""
    batches = {row["dtype"]: row["batch"] for row in rows if row["network"] == name}
    if len(set(batches.values())) == 1:
        return f"{name}: {next(iter(batches.values())):,} examples"
    return f"{name}: " + ", ".join(f"{batch:,} examples in {dtype}" for dtype, batch in batches.items())
