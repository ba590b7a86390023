"""Figures of the gradient checkers from verdicts: tables by checker and by mistake, what went wrong, and the picture.

A row of verdicts is one gradient: what it is of, its mistake or "none", what each checker called it, what ours named and said.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from checker_mistakes import MISTAKES, NO_EFFECT
from checker_rivals import CHECKERS, OURS
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

RIGHT = "none"


def visible(row: dict) -> bool:
    """Whether the mistake changes anything at the given point; one of form always does."""
    return row["effect_at_the_point"] is None or row["effect_at_the_point"] > NO_EFFECT


def by_mistake(rows: list[dict], without_effect: dict[str, int]) -> list[dict[str, Any]]:
    """A line for the right gradients, and for each kind of mistake: how many each checker was asked about, and got wrong."""
    return [
        _counted(kind, [row for row in rows if row["mistake"] == kind], without_effect) for kind in (RIGHT, *MISTAKES)
    ]


def _counted(kind: str, rows: list[dict], without_effect: dict[str, int]) -> dict[str, Any]:
    asked = {name: [row for row in rows if name in row["called_wrong"]] for name in CHECKERS}
    failed = {name: [row for row in some if went_wrong(row, name)] for name, some in asked.items()}
    return {
        "mistake": kind,
        "gradients": len(rows),
        "invisible_at_the_point": sum(not visible(row) for row in rows) if kind != RIGHT else 0,
        "without_effect": without_effect.get(kind, 0),
        "asked": {name: len(some) for name, some in asked.items()},
        "failed": {name: len(some) for name, some in failed.items()},
        "failed_though_visible": {name: sum(map(visible, some)) for name, some in failed.items()},
        **{key: sum(row[key] for row in rows) for key in ("named_only_wrong", "named_exactly", "diagnosed")},
        "crashes": sum(OURS in row["raised"] for row in rows),
    }


def went_wrong(row: dict, checker: str) -> bool:
    """Whether a checker raised a false alarm, or missed a mistake."""
    return row["called_wrong"][checker] == (row["mistake"] == RIGHT)


def faults(rows: list[dict]) -> list[dict[str, Any]]:
    """What went wrong, a line each: false alarms, misses, and mistakes that ours did not name or tell."""
    found = []
    for row in rows:
        by = [name for name in row["called_wrong"] if went_wrong(row, name)]
        told = row["mistake"] == RIGHT or (row["named_exactly"] and row["diagnosed"])
        if by or not told:
            kept = {key: row[key] for key in ("of", "mistake", "spot", "effect_at_the_point")}
            said = {} if told else {"diagnoses": row["diagnoses"], "named_exactly": row["named_exactly"]}
            found.append(kept | {"wrong_by": by} | said)
    return found


def by_checker(table: list[dict], seconds: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The end table: a line for each checker that was asked, from `by_mistake`'s."""
    right, *wrong = table
    gradients, lines = sum(line["gradients"] for line in wrong), []
    for name in (name for name in CHECKERS if right["asked"][name]):
        missed, asked, visible = (
            sum(line[k][name] for line in wrong) for k in ("failed", "asked", "failed_though_visible")
        )
        line = {"checker": name, "right_gradients": right["asked"][name], "false_alarms": right["failed"][name]}
        line |= {"missed": share(missed, asked), "missed_though_visible": visible}
        line |= {"crashes": sum(line["crashes"] for line in table) if name == OURS else "-"}
        for key in ("named_only_wrong", "named_exactly", "diagnosed"):
            line[key] = share(sum(line[key] for line in wrong), gradients) if name == OURS else "-"
        lines.append(line | {f"s_if_{verdict}": seconds.get(name, {}).get(verdict) for verdict in ("right", "wrong")})
    return lines


def medians(times: list[dict]) -> dict[str, dict[str, float]]:
    """The median seconds of each checker's cold checks."""
    found: dict[str, dict[str, float]] = {}
    for name in CHECKERS:
        for verdict in ("right", "wrong"):
            some = [row[name] for row in times if name in row and (row["mistake"] == RIGHT) == (verdict == "right")]
            if some:
                found.setdefault(name, {})[verdict] = round(statistics.median(some), 3)
    return found


def share(part: int, whole: int) -> str:
    """A count of a count."""
    return f"{part:,} of {whole:,}" if whole else "-"


def of_layers(rows: list[dict]) -> list[dict[str, Any]]:
    """A line for each layer: alarms, misses, what was named and told."""
    lines = []
    for layer in dict.fromkeys(row["of"] for row in rows):
        wrong = [row for row in rows if row["of"] == layer and row["mistake"] != RIGHT]
        alarms = sum(went_wrong(row, OURS) for row in rows if row["of"] == layer and row["mistake"] == RIGHT)
        missed = sum(went_wrong(row, OURS) for row in wrong)
        counts = {key: sum(row[key] for row in wrong) for key in ("named_exactly", "diagnosed")}
        lines.append({"layer": layer, "false_alarms": alarms, "mistakes": len(wrong), "missed": missed, **counts})
    return lines


# Picture


def cells(table: list[dict]) -> Iterator[tuple[str, str, int, int, str]]:
    """The picture's cells: line, column, part, whole, colour map."""
    right, *wrong = table
    lines = {"the right gradient: false alarms": [right], **{f"{line['mistake']}: missed": [line] for line in wrong}}
    for words, some in (lines | {"all mistakes: missed": wrong}).items():
        for name in CHECKERS:
            failed, asked = (sum(line[key][name] for line in some) for key in ("failed", "asked"))
            yield words, name, failed, asked, "Reds"
        for column, key in (("all wrong parameters", "named_exactly"), ("the mistake", "diagnosed")):
            if some != [right]:
                part, whole = (sum(line[k] for line in some) for k in (key, "gradients"))
                yield words, column, part, whole, "Greens"


def plot(table: list[dict]) -> Figure:
    """A cell for each kind of mistake and checker: how many it got wrong; and what ours named and diagnosed."""
    drawn = list(cells(table))
    lines, columns = list(dict.fromkeys(cell[0] for cell in drawn)), list(dict.fromkeys(cell[1] for cell in drawn))
    # a gap around what is of another kind: after the right gradient, before the sum, between the checkers and ours alone
    left = {column: i + 0.25 * (i >= len(CHECKERS)) for i, column in enumerate(columns)}
    top = {line: i + 0.25 * (i > 0) + 0.25 * (i == len(lines) - 1) for i, line in enumerate(lines)}
    figure = Figure(figsize=(10, 7.8))
    axis = figure.subplots()
    for line, column, part, whole, colors in drawn:
        ratio, (x, y) = part / whole if whole else 0.0, (left[column], top[line])
        color = colormaps[colors](0.1 + 0.65 * ratio) if part else "#f5f5f5"
        axis.add_patch(Rectangle((x, y), 0.96, 0.92, facecolor=color))
        text, ink = share(part, whole) if whole else "none", "white" if ratio > 0.6 else "#222"
        axis.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=8.5, color=ink)
    for text, some in (("wrong verdicts", columns[: len(CHECKERS)]), (f"named by {OURS}", columns[len(CHECKERS) :])):
        middle = (left[some[0]] + left[some[-1]] + 0.96) / 2
        axis.text(middle, -1, text, ha="center", fontsize=11, fontweight="bold")
    axis.set_yticks([y + 0.48 for y in top.values()], list(top))
    axis.set_xticks([x + 0.48 for x in left.values()], list(left))
    axis.xaxis.tick_top()
    axis.set(xlim=(0, left[columns[-1]] + 1), ylim=(top[lines[-1]] + 1, -0.1))
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_visible(False)
    return figure
