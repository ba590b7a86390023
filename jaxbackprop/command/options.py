"""What the tables of a command are made of: an option in a line, and the types of what is given.

A command is its options and its deed. Nothing here imports JAX, so that help, a slip of the pen and `--version` answer at once:
a deed finds what it computes with through the package, which imports what it is asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from jaxbackprop.spelling import unknown

KINDS = (
    "cpu",
    "gpu",
    "tpu",
)  # a copy, as all tables of names beside options are: a test compares them with what is there
# of `train`: what a run may have otherwise each time, and what --resume may say anew
WHERE = ("devices", "coordinator", "processes", "process_id", "scratch")
SAID_ANEW = ("resume", "epochs", "learning_rate", "json", "checkpoint_every", "checkpoint_minutes", "device", *WHERE)


class Option(NamedTuple):
    """An option or an argument: its names, what holds where it is not said, and what argparse is told."""

    names: tuple[str, ...]
    default: Any
    how: dict[str, Any]

    @property
    def dest(self) -> str:
        """The argument that it becomes."""
        return self.names[0].lstrip("-").replace("-", "_")


class Command(NamedTuple):
    """A command: what --help says of it, its options by the headings they stand under, and its deed.

    `prepared` turns what was said into the arguments of the deed, and raises ValueError where that has no sense.
    """

    name: str
    help: str
    description: str
    examples: str
    options: dict[tuple[str, str], tuple[Option, ...]]
    deed: Callable[[argparse.Namespace], int]
    prepared: Callable[[dict[str, Any]], argparse.Namespace] | None = None

    def with_defaults(self, said: dict[str, Any]) -> argparse.Namespace:
        """The arguments: what was said, and the default of all else."""
        return argparse.Namespace(**{o.dest: o.default for group in self.options.values() for o in group} | said)


def option(names: str, text: str, type: Callable | None = None, default: Any = None, **more: Any) -> Option:  # noqa: A002
    """An option, whose names end with what stands for its value: "--lr RATE"; or an argument: "file FILE".

    >>> option("--batch-size N", "examples a step", positive).dest
    'batch_size'
    """
    *flags, metavar = names.split()
    return Option(tuple(flags), default, {"metavar": metavar, "help": text, **({"type": type} if type else {}), **more})


def flag(name: str, text: str) -> Option:
    """An option without a value."""
    return Option((name,), False, {"action": "store_true", "help": text})


def choice(name: str, known: Collection[str], usual: str, more: str = "") -> Option:
    """An option whose value is one of a few names; `usual` is its default, or says what comes of saying nothing."""
    text = f"{', '.join(known)} ({usual}){more}"
    return option(f"{name} NAME", text, one_of(name.strip("-"), known), usual if usual in known else None)


def either(known: Collection[str]) -> str:
    """Names as English lists them.

    >>> either(["a", "b", "c"])
    'a, b or c'
    """
    *most, last = known
    return f"{', '.join(most)} or {last}"


def one_of(kind: str, known: Collection[str]) -> Callable[[str], str]:
    """The type of a name among those known."""

    def parse(given: str) -> str:
        return given if given in known else _refuse(unknown(kind, given, known))

    return parse


def separator(given: str) -> str:
    """One character, or the word tab."""
    mark = {"tab": "\t", "\\t": "\t"}.get(given, given)
    return (
        mark if len(mark) == 1 and mark not in '\r\n"' else _refuse(f"{given!r} is not one character, such as ; or tab")
    )


def positive(given: str) -> int:
    """An integer of at least 1."""
    right = given.isascii() and given.isdecimal() and int(given) >= 1
    return int(given) if right else _refuse(f"{given!r} is not an integer of at least 1")


def positive_number(given: str) -> float:
    """A number above 0 that float32 holds."""
    number = _float(given)
    return number if 0 < number < 3.4e38 else _refuse(f"{given!r} is not a positive number")


def not_negative(given: str) -> float:
    """The same, or 0."""
    return 0.0 if _float(given) == 0 else positive_number(given)


def finite(given: str) -> float:
    """A number that is neither infinite nor none."""
    number = _float(given)
    return number if abs(number) < float("inf") else _refuse(f"{given!r} is not a finite number")


def setting(given: str) -> tuple[str, float]:
    """A name and its number, NAME=NUMBER."""
    name, equals, number = given.partition("=")
    return (name, finite(number)) if name and equals else _refuse(f"{given!r} is not NAME=NUMBER")


def _float(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        return float("nan")


def _refuse(why: str) -> Any:
    raise argparse.ArgumentTypeError(why)


DEVICE = choice("--device", KINDS, "JAX's own choice")
JSON = flag("--json", "print one JSON object instead of text")
