"""What a derivation's numbers are taken for: arrays as people type them, and the rows and columns that each name has."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from jaxbackprop.grading.choice import choose, layouts
from jaxbackprop.grading.expression import ShapeError, UnknownError, nodes
from jaxbackprop.grading.points import build
from jaxbackprop.grading.reading import Reading
from jaxbackprop.grading.shapes import Layout
from jaxbackprop.grading.world import Loss, World

Numbers = Mapping[str, np.ndarray]
DIGITS = r"[-−+\d.eE,;\s]"
LIST = re.compile(  # x = [1, 2], W = np.array([[1, 2], [3, 4]]), b = (1, 2)
    r"(?:^|(?<=[\s,;$]))([^\W\d]\w*)\s*=\s*(?:j?np\.array\()?"
    rf"([\[(](?:{DIGITS}|[\[(]{DIGITS}*[\])])*[\])])\)?",
    re.MULTILINE,
)


def without_lists(text: str) -> tuple[str, dict[str, np.ndarray]]:
    """The text, and the arrays that stood in it: x = [1, 2], W = [[1, 2], [3, 4]], W = [1 2; 3 4], a pmatrix."""
    found: dict[str, np.ndarray] = {}
    plain = re.sub(r"\\begin\{[pb]matrix\}|\\end\{[pb]matrix\}", lambda m: "[" if "begin" in m[0] else "]", text)
    plain = re.sub(r"\[[^\[\]=]*\]", lambda m: m[0].replace("&", ",").replace("\\\\", ";"), plain)

    def take(match: re.Match) -> str:
        try:
            array = as_array(match[2])
        except ValueError:
            return match[0]
        before = plain[: match.start(1)].rstrip()
        if array.size == 1 or before.endswith(tuple("+-−*/@=·⊙(")):  # (2) is a number; in z = x + b = [1, 2] b is none
            return match[0]
        found.setdefault(match[1], array)
        return ""

    shorter = LIST.sub(take, plain)
    return (shorter, found) if found else (text, found)


def as_array(text: str) -> np.ndarray:
    """A number, a vector or a matrix as people type it.

    >>> as_array("1, -2").tolist(), as_array("[[1, 2], [3, 4]]").tolist(), as_array("1 2; 3 4").tolist(), as_array("2").tolist()
    ([1.0, -2.0], [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], 2.0)
    """
    inside = text.replace("−", "-").replace("(", "[").replace(")", "]").strip()
    rows = re.split(r"\]\s*,?\s*\[|;", inside)
    try:
        lists = [[float(v) for v in re.split(r"[,\s]+", r.strip("[] ,\n")) if v] for r in rows]
        array = np.array(lists, np.float64)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number, nor a list such as 1,2, nor rows such as 1,2;3,4") from None
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{text!r} holds no finite numbers")
    several = len(rows) > 1 or inside.startswith("[[")
    return array if several else array[0] if inside.startswith("[") or array.size > 1 else array.reshape(())


def worlds(reading: Reading, numbers: Numbers) -> Iterator[World]:
    """Ways to take the text: numbers; or columns, rows, batches that fit the arrays."""
    lettered = any(n.op == "name" and n.args[1] for _, e in reading.definitions.values() for n in nodes(e))
    arrays = any(numbers[v].ndim for v in reading.free)
    with np.errstate(all="ignore"):
        if not arrays or lettered:
            world = choose(reading._replace(given={} if arrays else {v: float(numbers[v]) for v in reading.free}))
            yield from [] if world is None else [world._replace(turned_adjoints="")]
        # square arrays fit more than one way: the likeliest by how the text is written comes first, as when it is marked
        reading = reading._replace(given={})
        likely = [Layout(True, layout.rows, layout.batch) for layout in layouts(reading) if layout.vectors]
        every = [Layout(True, rows, batch) for batch in (False, True) for rows in (False, True)]
        for layout in dict.fromkeys([*likely, *every]) if not lettered else ():
            try:
                yield build(reading, layout, Loss())
            except (ShapeError, UnknownError):
                continue


def placed(world: World, numbers: Numbers) -> dict[str, np.ndarray]:
    """Each number or array as its name's value at one point: (1, letters..., rows, columns).

    Raises:
        ShapeError: one has other sizes than the equations say.
    """
    found = {}
    for v in world.reading.free:
        a, (slots, rows, columns) = numbers[v], world.sized.names.get(v, ((), 1, 1))
        if slots:
            single = [i for i, n in enumerate((rows, columns), 1 + len(slots)) if n == 1]
            if a.ndim != len(slots) + 2 - len(single):
                raise ShapeError(f"{v} has {len(slots)} indices, and the numbers given for it {a.ndim}")
            found[v] = np.expand_dims(a, [0, *single])
            continue
        if a.ndim < 2:
            a = a.reshape(1, -1) if world.layout.rows and rows == 1 else a.reshape(-1, 1)
        if a.ndim != 2 or (rows == 1 < a.shape[0]) or (columns == 1 < a.shape[1]):
            raise ShapeError(f"{v} is {'x'.join(map(str, a.shape))}, and the equations take it for {rows}x{columns}")
        found[v] = a[None]
    return found
