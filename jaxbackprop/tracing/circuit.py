"""The picture of a derivation worked through: its equations as a circuit, values above each name, derivatives below.

An equation is a box that holds its name and its formula; equations that need each other stand left to right. What no
equation computes and one alone uses, a weight, a bias, a target, stands below that equation; the others stand at the left.
"""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxbackprop.tracing import picture
from jaxbackprop.tracing.picture import ADJOINT, LETTER, LINE_HEIGHT, SIZE, VALUE, Point
from jaxbackprop.tracing.symbols import short

if TYPE_CHECKING:  # an extra: imported where it is used
    from matplotlib.figure import Figure

TALL, APART, INSIDE = 0.34, 0.3, 20  # half a box's height; between two; letters in its line
BELOW = "below a box its derivative, then what it alone uses"


class _Box(NamedTuple):
    """A name with its formula, its value, and what stands below it: its derivative, and what it alone uses."""

    name: str
    formula: list[str]
    value: str
    below: list[tuple[str, str]]  # each with its colour

    @property
    def half(self) -> float:
        """Half its width."""
        return LETTER * max(4, *map(len, (self.name, *self.formula))) / 2 + 0.06

    @property
    def reach(self) -> float:
        """Half the width of it and its texts."""
        return max(self.half, LETTER * max(len(self.value), *(len(text) for text, _ in self.below)) / 2) + 0.1

    @property
    def down(self) -> float:
        """From its middle to the end of what stands below it."""
        return TALL + 0.08 + LINE_HEIGHT * len(self.below)


def draw(worked: Any) -> "Figure":
    """Draw a derivation that was worked through; `WorkedDerivation.figure` is the way to call it.

    >>> from jaxbackprop.tracing.derivation import work
    >>> figure = draw(work("z = w x; L = 1/2 (z - y)^2", {"w": 3, "x": 2, "y": 5}))
    >>> [text.get_text() for text in figure.axes[0].texts if text.get_gid() == "node"]
    ['x', 'z', 'L']
    """
    boxes = _boxes(worked)
    columns = _columns(worked.uses, boxes)
    at = _placed(columns, boxes)
    order = {v: i for i, column in enumerate(columns) for v in column}
    wires = [(u, v) for v, used in worked.uses.items() for u in used if u in boxes]
    far = [(u, v) for u, v in wires if order[v] - order[u] > 1]
    left, right = (sign * max(sign * at[v][0] + boxes[v].reach for v in boxes) for sign in (-1, 1))
    bottom = min(at[v][1] - boxes[v].down for v in boxes)
    top = max(y for _, y in at.values()) + TALL + 0.3
    corners = (left - 0.15, bottom - 0.45, max(right + 0.15, left + 7), top + 0.25 * len(far) + 0.1)
    figure, axes = picture.canvas(corners, f"{worked.title}; {BELOW}")
    for u, v in wires:
        start, end = (at[u][0] + boxes[u].half, at[u][1]), (at[v][0] - boxes[v].half, at[v][1])
        if (u, v) in far:
            reaches = (at[u][0] + boxes[u].reach, at[v][0] - boxes[v].reach)
            _cable(axes, start, end, top + 0.25 * far.index((u, v)) + 0.1, reaches)
        else:
            picture.arrow(axes, [start, end], 1.2)
    for v, box in boxes.items():
        _draw(axes, box, at[v])
    picture.legend(figure, f"derivative of {worked.loss}, backward")
    return figure


def _boxes(worked: Any) -> dict[str, _Box]:
    """A box for each equation, and for what several of them use, or is an input."""
    bare = lambda name: name.split("/d")[-1].partition("_")[0]  # noqa: E731
    slopes = {bare(r.name): f"{r.name} = {short(r.value, 4)}" for r in worked.rows if r.jax_grad is not None}
    forward = {bare(r.name): r for r in worked.rows if r.jax_grad is None}
    said = lambda v: f"{v} = {short(forward[v].value if v in forward else worked.given[v], 4)}"  # noqa: E731
    users = {u: [v for v, used in worked.uses.items() if u in used] for u in worked.given}
    shared = [u for u, those in users.items() if len(those) > 1 or (u[0] in "xX" and those)]
    found = {}
    for v in (*shared, *worked.uses):
        own = [u for u in worked.uses.get(v, ()) if u in users and u not in shared]
        below = [(slopes[v], ADJOINT)] if v in slopes else []
        below += [pair for u in own for pair in ((said(u), VALUE), (slopes[u], ADJOINT))]
        formula = forward[v].right if v in forward else ""
        lines = textwrap.wrap(formula, INSIDE, max_lines=2, placeholder=" …", break_long_words=False)
        found[v] = _Box(forward[v].name if v in forward else v, lines, said(v), below or [("", ADJOINT)])
    return found


def _columns(uses: Mapping[str, tuple[str, ...]], boxes: Mapping[str, _Box]) -> list[list[str]]:
    """The boxes by how many equations must come before each."""
    depth: dict[str, int] = {v: 0 for v in boxes if v not in uses}
    for v, used in uses.items():
        depth[v] = 1 + max((depth[u] for u in used if u in uses), default=0)
    return [names for d in range(max(depth.values()) + 1) if (names := [v for v in boxes if depth[v] == d])]


def _placed(columns: list[list[str]], boxes: Mapping[str, _Box]) -> dict[str, Point]:
    """The middle of each box: each column about the same height."""
    place, x = {}, 0.0
    for names in columns:
        reach = max(boxes[v].reach for v in names)
        x += reach
        heights = [TALL + 0.3 + boxes[v].down + APART for v in names]
        y = (sum(heights) - heights[-1]) / 2
        for v, height in zip(names, heights, strict=True):
            place[v] = (x, y)
            y -= height
        x += reach + 0.5
    return place


def _cable(axes, start: Point, end: Point, height: float, reaches: tuple[float, float]) -> None:
    """Up beside one box, across above all that stands between, and down beside the other."""
    up, down, corner = reaches[0] + 0.08, reaches[1] - 0.08, (0.12, 0.2)
    picture.line(axes, picture.riser((start[0], start[1] + 0.15), up, height, corner), 1.2)
    picture.line(axes, [(up + corner[0], height), (down - corner[0], height)], 1.2)
    picture.arrow(axes, picture.riser((end[0], end[1] + 0.15), down, height, (-corner[0], corner[1]))[::-1], 1.2)


def _draw(axes, box: _Box, point: Point) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = point
    style = {
        "facecolor": picture.FILL if box.formula else "white",
        "edgecolor": picture.INK,
        "linewidth": 1.2,
        "zorder": 3,
    }
    corner = "round,pad=0,rounding_size=0.09"
    axes.add_patch(FancyBboxPatch((x - box.half, y - TALL), 2 * box.half, 2 * TALL, boxstyle=corner, **style))
    middle = {"ha": "center", "va": "center", "zorder": 4, "parse_math": False}
    lift = 0.1 * len(box.formula)
    axes.text(x, y + lift, box.name, size=SIZE, color=picture.INK, gid="node", **middle)
    for i, part in enumerate(box.formula):
        axes.text(x, y + lift - 0.2 * (i + 1), part, size=SIZE - 2, color=picture.MUTED, gid="formula", **middle)
    picture.write(axes, x, y + TALL + 0.06, box.value, VALUE, "bottom")
    for i, (text, colour) in enumerate(box.below):
        picture.write(axes, x, y - TALL - 0.06 - LINE_HEIGHT * i, text, colour, "top")
