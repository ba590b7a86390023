"""The picture of a trace: the network left to right, values above each node in blue, adjoints below it in orange.

All lengths are inches, so that a figure grows with its network and letters keep their size. Up to 8 units a layer each
unit is a circle; beyond, each layer is one box with norms. An edge between neighbouring columns is straight; one that
skips columns rises, runs above everything between, and comes down: a cable, which all unit edges of that layer pair
share. A weight stands on its edge where few edges are; elsewhere the norm of the whole matrix stands there.
"""

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbackprop.activations import as_activation
from jaxbackprop.network import BIAS, INPUT, widths
from jaxbackprop.spelling import extra
from jaxbackprop.tracing.rows import prediction_name, slope
from jaxbackprop.tracing.symbols import FEW, Names, names_of, norm, number, short, shown_shape

if TYPE_CHECKING:  # an extra: imported where it is used
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

Point = tuple[float, float]

UNITS = 8  # a wider layer, and the picture shows boxes
EDGES = 3  # unit edges of a layer pair that each get a label

VALUE, ADJOINT = "#1d4ed8", "#c2410c"
INK, MUTED, LINE, FILL, OFF = "#1f2937", "#6b7280", "#9ca3af", "#eff6ff", "#f3f4f6"
RADIUS, BOX, CORNER, LINE_HEIGHT, GAP, LEVEL = 0.34, (0.46, 0.41), (0.25, 0.25), 0.2, 0.16, 0.66
SIZE, LETTER = 10.5, 0.084  # points, and about how wide a letter of that size is


class _Node(NamedTuple):
    """One circle or box, with what stands above and below it, and its activation."""

    label: str
    above: list[str]
    below: list[str]
    off: bool
    g: str = ""


class _Plan(NamedTuple):
    """Where everything stands.

    Attributes:
        columns: the nodes, by layer, x first and L last.
        place: the centre of each node.
        order: the layers' names, left to right.
        boxes: whether a layer is one box.
        column: from one column's middle to the next one's.
        reach: from a node's middle to where its cables rise, clear of its texts.
        heaviest: the largest |w|.
        label: of an edge: a name and a weight in, `w0 = 0.8` or `‖w0‖ = 3.1` out.
    """

    columns: dict[str, list[_Node]]
    place: dict[str, list[Point]]
    order: list[str]
    boxes: bool
    column: float
    reach: float
    heaviest: float
    label: Callable[[str, np.ndarray], str]

    def thickness(self, w: float) -> float:
        """Of the line for a weight."""
        return 0.6 + 2.2 * abs(w) / self.heaviest if 0 < self.heaviest < np.inf else 1.2


class _Edge(NamedTuple):
    """All unit edges from one layer to another."""

    source: str
    target: str
    weight: np.ndarray
    gradient: np.ndarray
    name: str


def draw(trace: Any) -> "Figure":
    """Draw what was worked through; `Trace.figure` is the way to call it.

    Returns:
        a matplotlib Figure made without pyplot. The texts carry a gid: "node" within a node, "value" and "adjoint".

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxbackprop import init, mlp, trace
    >>> net = mlp((1, 2, 1))
    >>> figure = draw(trace(net, "huber", init(net, jax.random.key(0)), jnp.ones(1), jnp.ones(1)))
    >>> [text.get_text() for text in figure.axes[0].texts if text.get_gid() == "node"]
    ['x', 'h0[0]', 'h0[1]', 'yhat', 'L']
    """
    names = names_of(trace.network)
    edges = [_Edge(s, t, trace.params[t][s], trace.gradient[t][s], names.w[t, s]) for t, s in names.w if s != BIAS]
    plan = _plan(trace, names, edges)
    columns, place, order = plan.columns, plan.place, plan.order
    cables = [edge for edge in edges if order.index(edge.target) - order.index(edge.source) > 1]
    straight = [edge for edge in edges if edge not in cables]
    levels = _levels([(order.index(edge.source), order.index(edge.target)) for edge in cables])

    half = plan.reach
    left, right = -half - 0.15, place["L"][0][0] + half + 0.15
    top = max(place[name][0][1] + _above(columns[name], plan.boxes) for name in order)
    bottom = min(place[name][-1][1] - _below(columns[name], plan.boxes) for name in order)
    bottom -= 0.6 + 0.55 * any(_labelled_below(edge, plan.boxes) for edge in straight)  # the legend; norms
    text = f"{trace.title}; {trace['L'].formula}"
    roof = top + (0.8 + LEVEL * max(levels) if cables else 0.1) + 0.15

    figure, axes = canvas((left, bottom, right, roof), text)
    for edge in straight:
        _draw_straight(axes, edge, plan)
    for edge, level in zip(cables, levels, strict=True):
        _draw_cable(axes, edge, top + 0.45 + LEVEL * level, plan, alone=len(cables) == 1)
    for x, y in place[order[-2]]:
        arrow(axes, [(x + _half(plan.boxes), y), (place["L"][0][0] - 0.85 * RADIUS, place["L"][0][1])], 1.2)
    for name in order:
        for node, point in zip(columns[name], place[name], strict=True):
            _draw_node(axes, node, point, box=plan.boxes and name != "L", square=name == "L")
    width = None if plan.boxes else f"line: the thicker, the larger |w|, up to {number(plan.heaviest, 3)}"
    legend(
        figure,
        "adjoint, backward: dfoo is dL/dfoo",
        width,
        any(node.off for nodes in columns.values() for node in nodes),
    )
    return figure


def canvas(corners: tuple[float, float, float, float], text: str) -> tuple["Figure", "Axes"]:
    """A page from (left, bottom) to (right, top) in inches, and above it a line, or more, of text."""
    extra("matplotlib.figure", "matplotlib", "a picture")
    from matplotlib.figure import Figure

    left, bottom, right, top = corners
    lines = textwrap.wrap(text, int((right - left) / LETTER))
    roof = top + 0.2 * len(lines)
    figure = Figure(figsize=(right - left, roof - bottom), facecolor="white")
    figure.set_layout_engine("none")  # whatever a user prefers
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, roof))
    axes.axis("off")
    for i, part in enumerate(lines):
        y = roof - 0.12 - 0.2 * i
        axes.text(left + 0.2, y, part, size=SIZE - 1.5, color=MUTED, va="top", gid="title", parse_math=False)
    return figure, axes


def _plan(trace: Any, names: Names, edges: list[_Edge]) -> _Plan:
    boxes = max(widths(trace.network).values()) > UNITS
    columns, label = _columns(trace, names, boxes), _label_of(trace.digits)
    texts = [line for nodes in columns.values() for node in nodes for line in (*node.above, *node.below)]
    letters = max(map(len, texts))
    on_edges = max(len(text) for edge in edges for text in _texts(edge, label))
    reach = LETTER * letters / 2 + 0.12
    column = max(2.4, 2 * reach + LETTER * on_edges + 0.4, 0.36 * _height(columns.values(), boxes))
    order = list(columns)
    at = {name: column * i for i, name in enumerate(order)}
    at["L"] = at[order[-2]] + max(1.6, 2 * reach + 0.2)
    place = {name: _stacked(at[name], nodes, boxes) for name, nodes in columns.items()}
    heaviest = max(float(np.max(np.abs(edge.weight))) for edge in edges)
    return _Plan(columns, place, order, boxes, column, reach, heaviest, label)


def _columns(trace: Any, names: Names, boxes: bool) -> dict[str, list[_Node]]:
    """The nodes of each column, by layer, x first and L last."""
    digits, output = trace.digits, trace.network.layers[-1].name
    columns = {INPUT: _nodes("x", [("x", trace.x)], [], None, "", digits, boxes)}
    prediction = [(r.name, r.value) for r in trace.rows if r.name == prediction_name(trace.network)]
    for t in trace.network.layers:
        z, h = names.z[t.name], t.name
        above = [(z, trace.z[t.name]), (h, trace.h[t.name]), *(prediction if h == output else [])]
        below = [("d" + h, trace.dh[t.name]), ("d" + z, trace.dz[t.name])]
        g = names.g[h] if as_activation(t.activation).text else ""
        if t.bias:
            name = names.w[t.name, BIAS]
            above, below = [(name, trace.params[t.name][BIAS]), *above], [*below, ("d" + name, trace.dz[t.name])]
        columns[h] = _nodes(h, above, below, slope(t, trace.z[h]) == 0, g, digits, boxes)
    y = [f"y = {short(trace.y, digits)}"] if trace.y.size <= 3 else []
    columns["L"] = [_Node("L", [*y, f"L = {number(trace.value, digits)}"], [], False)]
    return columns


def _nodes(name, above, below, off, g, digits, boxes) -> list[_Node]:
    """One node a unit, or one for the layer; a quantity is its name and its array."""
    width = len(above[0][1])
    if boxes:
        label = _label_of(digits)
        lines = [[label(name, a) for name, a in part] for part in (above, below)]
        return [_Node(f"{name}\n{width} unit{'s' * (width > 1)}", lines[0], lines[1], False, g)]
    nodes = []
    for i in range(width):
        lines = [[f"{name} = {number(a[i], digits)}" for name, a in part] for part in (above, below)]
        nodes.append(
            _Node(name if width == 1 else f"{name}[{i}]", lines[0], lines[1], off is not None and bool(off[i]), g)
        )
    return nodes


def _stacked(x: float, nodes: list[_Node], boxes: bool) -> list[Point]:
    """The centres of a column's nodes, spread about the middle."""
    apart = _above(nodes, boxes) + _below(nodes, boxes) + GAP
    return [(x, ((len(nodes) - 1) / 2 - k) * apart) for k in range(len(nodes))]


def _height(columns: Any, boxes: bool) -> float:
    """Of the tallest column: columns farther apart keep its edges from being steep."""
    return max((len(nodes) - 1) * (_above(nodes, boxes) + _below(nodes, boxes) + GAP) for nodes in columns)


def _above(nodes: list[_Node], boxes: bool) -> float:
    return (BOX[1] if boxes else RADIUS) + 0.1 + LINE_HEIGHT * len(nodes[0].above)


def _below(nodes: list[_Node], boxes: bool) -> float:
    return (BOX[1] if boxes else RADIUS) + 0.1 + LINE_HEIGHT * len(nodes[0].below)


def _half(boxes: bool) -> float:
    return BOX[0] if boxes else RADIUS


def _levels(spans: list[tuple[int, int]]) -> list[int]:
    """A level for each cable, the lowest that no shorter cable uses in between."""
    level: dict[int, int] = {}
    for i in sorted(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0]):
        taken = {level[j] for j in level if spans[j][0] < spans[i][1] and spans[i][0] < spans[j][1]}
        level[i] = next(k for k in range(len(spans)) if k not in taken)
    return [level[i] for i in range(len(spans))]


def _label_of(digits: int) -> Callable[[str, np.ndarray], str]:
    def label(name: str, array: np.ndarray) -> str:
        if array.size <= FEW:
            return f"{name} = {short(array, digits)}"
        return f"‖{name}‖ = {number(norm(array), digits)}" + (f" {shown_shape(array)}" if array.ndim > 1 else "")

    return label


def _texts(edge: _Edge, label: Callable[[str, np.ndarray], str]) -> tuple[str, str]:
    return label(edge.name, edge.weight), label("d" + edge.name, edge.gradient)


def _labelled_below(edge: _Edge, boxes: bool) -> bool:
    return not boxes and (min(edge.weight.shape) > 1 or edge.weight.size > EDGES)


def _draw_straight(axes: "Axes", edge: _Edge, plan: _Plan) -> None:
    sources, targets = plan.place[edge.source], plan.place[edge.target]
    texts = _texts(edge, plan.label)
    middle = (sources[0][0] + targets[0][0]) / 2
    if plan.boxes:
        y = sources[0][1]
        arrow(axes, [(sources[0][0] + BOX[0], y), (targets[0][0] - BOX[0], y)], 1.6)
        return _write_edge(axes, middle, y, *texts)
    for j, (x0, y0) in enumerate(sources):
        for i, (x1, y1) in enumerate(targets):
            # never steeper than this at the nodes, where the texts above and below are
            angle = np.clip(np.arctan2(y1 - y0, x1 - x0), -0.45, 0.45)
            dx, dy = RADIUS * float(np.cos(angle)), RADIUS * float(np.sin(angle))
            arrow(axes, [(x0 + dx, y0 + dy), (x1 - dx, y1 - dy)], plan.thickness(edge.weight[i, j]))
            if edge.weight.size > 1 and not _labelled_below(edge, plan.boxes):
                # nearer to the side that fans out, where the edges are apart
                at = 0.46 if len(sources) > 1 else 0.54
                w, dw = plan.label("w", edge.weight[i : i + 1, j]), plan.label("dw", edge.gradient[i : i + 1, j])
                _write_edge(axes, x0 + at * (x1 - x0), y0 + at * (y1 - y0), w, dw, over=True)
    if edge.weight.size == 1:
        return _write_edge(axes, middle, sources[0][1], *texts)
    if _labelled_below(edge, plan.boxes):
        lowest = min(plan.place[name][-1][1] - _below(plan.columns[name], False) for name in (edge.source, edge.target))
        _write_edge(axes, middle, lowest - 0.25, *texts, over=True)
    return None


def _draw_cable(axes: "Axes", edge: _Edge, height: float, plan: _Plan, alone: bool) -> None:
    sources, targets = plan.place[edge.source], plan.place[edge.target]
    dx, dy = (BOX[0], 0.12) if plan.boxes else (0.866 * RADIUS, 0.5 * RADIUS)
    up, down = sources[0][0] + plan.reach, targets[0][0] - plan.reach
    size = plan.thickness(edge.weight.item()) if edge.weight.size == 1 else 1.6
    # a lone cable may swing out
    corner = (min(1.2, (down - up) / 3), 0.6) if alone else CORNER
    for x, y in sources:
        line(axes, riser((x + dx, y + dy), up, height, corner), size if len(sources) == 1 else 1.0)
    line(axes, [(up + corner[0], height), (down - corner[0], height)], size)
    for x, y in targets:
        bend = riser((x - dx, y + dy), down, height, (-corner[0], corner[1]))
        arrow(axes, bend[::-1], size if len(targets) == 1 else 1.0)
    # above the first gap no other cable rises
    middle = (up + down) / 2 if alone else sources[0][0] + plan.column / 2
    texts = _texts(edge, plan.label)
    _write_edge(axes, middle, height, *texts)


def riser(start: Point, x: float, height: float, corner: Point) -> list[Point]:
    """From a node aside to x, up, and round the corner."""
    points = [start, (x, start[1]), (x, start[1] + 0.25)]
    return [*points, (x, height - corner[1]), (x, height), (x + corner[0], height)]


def path_of(points: list[Point]) -> "Path":
    """Straight from point to point; a riser's six with two bends, the same from either end."""
    from matplotlib.path import Path

    bends = [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path(points, bends if len(points) == len(bends) else None)


def arrow(axes: "Axes", points: list[Point], width: float) -> None:
    """An arrow along these points."""
    from matplotlib.patches import FancyArrowPatch

    style = f"-|>,head_length={3 + width},head_width={1.5 + width / 2}"
    ends = {"shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"}
    axes.add_patch(
        FancyArrowPatch(path=path_of(points), arrowstyle=style, color=LINE, linewidth=width, zorder=1, **ends)
    )


def line(axes: "Axes", points: list[Point], width: float) -> None:
    """A line along these points."""
    from matplotlib.patches import PathPatch

    style = {"edgecolor": LINE, "facecolor": "none", "linewidth": width, "zorder": 1, "capstyle": "butt", "snap": False}
    axes.add_patch(PathPatch(path_of(points), **style))


def _draw_node(axes: "Axes", node: _Node, point: Point, box: bool, square: bool) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    x, y = point
    style = {"facecolor": OFF if node.off else FILL, "edgecolor": INK, "linewidth": 1.2, "zorder": 3}
    if node.off:
        style |= {"edgecolor": LINE, "linestyle": (0, (3, 2))}
    half = BOX[1] if box else RADIUS
    if box or square:
        wide, tall = BOX if box else (0.85 * RADIUS, 0.85 * RADIUS)
        corner = "round,pad=0,rounding_size=0.09"
        axes.add_patch(FancyBboxPatch((x - wide, y - tall), 2 * wide, 2 * tall, boxstyle=corner, **style))
    else:
        axes.add_patch(Circle(point, RADIUS, **style))
    ink = MUTED if node.off else INK
    size = SIZE if len(node.label) < 5 or "\n" in node.label else SIZE - 1.5
    middle = {"color": ink, "ha": "center", "zorder": 4, "parse_math": False}
    lift = 0.09 if node.g else 0
    axes.text(x, y + lift, node.label, size=size, va="center", gid="node", **middle)
    if node.g:
        at = y + lift - (0.27 if "\n" in node.label else 0.2)
        axes.text(x, at, node.g, size=SIZE - 2 - 0.5 * max(0, len(node.g) - 7), va="center", gid="activation", **middle)
    for i, text in enumerate(reversed(node.above)):
        write(axes, x, y + half + 0.1 + LINE_HEIGHT * i, text, VALUE, "bottom")
    for i, text in enumerate(node.below):
        write(axes, x, y - half - 0.1 - LINE_HEIGHT * i, text, ADJOINT, "top")


def _write_edge(axes: "Axes", x: float, y: float, weight: str, gradient: str, over: bool = False) -> None:
    """A weight above its edge and the gradient below it; over a slanting edge both on white."""
    away = 0.01 if over else 0.06
    write(axes, x, y + away, weight, VALUE, "bottom", SIZE - 1, over)
    write(axes, x, y - away, gradient, ADJOINT, "top", SIZE - 1, over)


def write(axes: "Axes", x, y, text: str, color: str, va: str, size: float = SIZE, over: bool = True) -> None:
    """A value, or an adjoint, in its colour; on white, where an edge passes behind."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85} if over else None
    gid = "value" if color == VALUE else "adjoint"
    axes.text(x, y, text, size=size, color=color, ha="center", va=va, zorder=5, gid=gid, bbox=ground, parse_math=False)


def legend(figure: "Figure", adjoints: str, width: str | None = None, off: bool = False) -> None:
    """What the colours mean, and where there are such, the lines' width and the units that are off."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="s", linestyle="", color=VALUE, label="value, forward"),
        Line2D([], [], marker="s", linestyle="", color=ADJOINT, label=adjoints),
    ]
    if width:
        handles.append(Line2D([], [], color=LINE, linewidth=2.8, label=width))
    if off:
        ring = {"markerfacecolor": OFF, "markeredgecolor": LINE, "markersize": 8}
        handles.append(Line2D([], [], marker="o", linestyle="", label="off: g'(z) = 0", **ring))
    style = {"frameon": False, "fontsize": SIZE - 1, "handletextpad": 0.6, "handlelength": 1.4}
    figure.legend(handles=handles, loc="lower center", ncols=2, **style)
