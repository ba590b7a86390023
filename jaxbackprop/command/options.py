"""What the tables of a command are made of: an option in a line, and the types of what is given.

A command is its options and its deed. Nothing here imports JAX, so that help, a slip of the pen and `--version` answer at once:
a deed finds what it computes with through the package, which imports what it is asked for.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxbackprop.spelling import unknown

KINDS = ("cpu", "gpu", "tpu")  # copied, as all names beside options are; a test compares them with what is there
# of `train`: what a run may have otherwise each time, and what --resume may say anew
WHERE = ("devices", "coordinator", "processes", "process_id", "scratch")
SAID_ANEW = ("resume", "epochs", "learning_rate", "json", "checkpoint_every", "checkpoint_minutes", "device", *WHERE)


class Option(NamedTuple):
    """An option, or an argument: what it becomes, its names, what holds where it is not said, and what argparse is told."""

    dest: str
    names: tuple[str, ...]
    default: Any
    how: dict[str, Any]


class Command(NamedTuple):
    """A command: what --help says of it, its deed, and its options, more of them under headings of their own.

    `prepared` completes what was said, and raises ValueError where that has no sense. `found` looks whether what is named is
    there, before the deed imports JAX.
    """

    name: str
    help: str
    description: str
    examples: str
    deed: Callable[[argparse.Namespace], int]
    options: tuple[Option, ...]
    headed: Mapping[str, tuple[Option, ...]] = MappingProxyType({})  # by "heading: what it says"
    prepared: Callable[[dict[str, Any]], dict[str, Any]] = dict
    found: Callable[[argparse.Namespace], object] = bool


def option(names: str, text: str, type: Callable | None = None, default: Any = None, **more: Any) -> Option:  # noqa: A002
    """An option, whose names end with what stands for its value: "--lr RATE"; or an argument: "file FILE".

    >>> option("--batch-size N", "examples a step", positive).dest
    'batch_size'
    """
    *flags, metavar = names.split()
    return Option(_dest(flags[0]), tuple(flags), default, {"metavar": metavar, "help": text, "type": type, **more})


def flag(name: str, text: str) -> Option:
    """An option without a value."""
    return Option(_dest(name), (name,), False, {"action": "store_true", "help": text})


def _dest(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


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
    return " or ".join(filter(None, (", ".join(most), last)))


def one_of(kind: str, known: Collection[str]) -> Callable[[str], str]:
    """The type of a name among those known."""

    def parse(given: str) -> str:
        if given not in known:
            raise argparse.ArgumentTypeError(unknown(kind, given, known))
        return given

    return parse


def that_is(what: str, read: Callable[[str], Any], right: Callable[[Any], bool]) -> Callable[[str], Any]:
    """The type of what can be read, and is right; anything else is refused as not being `what`."""

    def parse(given: str) -> Any:
        with suppress(ValueError):
            if right(value := read(given)):
                return value
        raise argparse.ArgumentTypeError(f"{given!r} is not {what}")

    return parse


def _pair(given: str) -> tuple[str, str]:
    name, _, numbers = given.partition("=")
    return name, numbers


LARGEST = 3.4e38  # float32's
natural = that_is("an integer of at least 0, and below 2**63", int, lambda n: 0 <= n < 2**63)
positive = that_is("an integer of at least 1", int, lambda n: n >= 1)
positive_number = that_is("a positive number", float, lambda x: 0 < x < LARGEST)
not_negative = that_is("a number of at least 0", float, lambda x: 0 <= x < LARGEST)
finite = that_is("a finite number", float, math.isfinite)
setting = that_is("NAME=NUMBERS, such as b=1 or x=1,2", _pair, all)
separator = that_is(
    "one character, such as ; or tab",
    lambda given: {"tab": "\t", "\\t": "\t"}.get(given, given),
    lambda mark: len(mark) == 1 and mark not in '\r\n"',
)
DEVICE = choice("--device", KINDS, "JAX's own choice")
JSON = flag("--json", "print one JSON object instead of text")
