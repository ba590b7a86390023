"""The command line as a whole: which command is asked for, with which arguments, and how it ends."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import jaxbackprop as jbp
from jaxbackprop.command import check, evaluate, grade, predict, trace, train
from jaxbackprop.command.options import Command, either
from jaxbackprop.mathematics import TYPED
from jaxbackprop.spelling import unknown

COMMANDS = {file.COMMAND.name: file.COMMAND for file in (train, predict, evaluate, grade, trace, check)}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(*parsed(sys.argv[1:] if argv is None else argv))


def entry() -> NoReturn:
    """The console script: `main` on a terminal or into a pipe that may close, in any encoding, and with Ctrl-C at any time."""
    signal.signal(signal.SIGINT, _interrupted)
    sys.stdout.reconfigure(errors=TYPED)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        try:
            status = run(*parsed(sys.argv[1:]), begin=lambda: jbp.command.cache.keep_compiled_programs())
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os._exit(141)  # the reader of our output has gone: nothing is left to say, nor to flush
    sys.exit(status)


def run(command: Command, arguments: argparse.Namespace, begin: Callable[[], object] = bool) -> int:
    """Do what is asked; what cannot be done is said in one line."""
    try:
        command.found(arguments)
        begin()
        return command.deed(arguments)
    except BrokenPipeError:
        raise  # no bad input: `entry` ends in silence
    except (ValueError, OSError, ImportError) as error:
        print(f"jaxbackprop: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxbackprop: interrupted", file=sys.stderr)
        return 130


def parsed(argv: list[str]) -> tuple[Command, argparse.Namespace]:
    """The command and its arguments; a slip is refused in one line, with what is nearest. Nothing is computed, nor imported."""
    first = argv[0] if argv else ""
    if first in COMMANDS:
        return COMMANDS[first], _arguments(COMMANDS[first], argv[1:])
    parser = _Parser(
        "jaxbackprop",
        description="Backpropagation derived by hand: train a network, see it worked through, mark a derivation.",
        epilog="Each command has its own --help with examples. Start with: jaxbackprop train",
    )
    parser.add_argument("--version", action="version", version=jbp.__version__)
    known = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS.values():
        known.add_parser(command.name, help=command.help)
    if first in parser._option_string_actions:
        parser.parse_args(argv[:1])  # help, or the version: it leaves
    wrong = f"give a command, {either(COMMANDS)}: start with `jaxbackprop train`"
    if first.startswith("-"):
        wrong = f"unknown option {first!r}: give a command first, {either(COMMANDS)}"
    elif argv:
        wrong = unknown("command", first, COMMANDS)
    return parser.error(wrong)


def _arguments(command: Command, words: list[str]) -> argparse.Namespace:
    """What the words that follow a command say, and the default of what they do not say."""
    width = shutil.get_terminal_size((120, 24)).columns - 2
    parser = _Parser(
        f"jaxbackprop {command.name}",
        description=command.description,
        epilog=f"examples:\n{command.examples}",
        formatter_class=partial(_Help, width=width),
        argument_default=argparse.SUPPRESS,
    )
    # argparse by itself takes -1e-3 for an option
    matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
    parser._negative_number_matcher = matcher  # pyright: ignore[reportAttributeAccessIssue]
    groups = [(parser, command.options)]
    groups += [(parser.add_argument_group(*head.split(": ", 1)), options) for head, options in command.headed.items()]
    for group, options in groups:
        for option in options:
            group.add_argument(*option.names, **option.how)
    said, extra = parser.parse_known_args(words)
    if extra and extra[0].startswith("-"):
        near = difflib.get_close_matches(extra[0].partition("=")[0], parser._option_string_actions, n=3, cutoff=0.5)
        hint = f": did you mean {either([repr(name) for name in near])}?" if near else ""
        parser.error(f"unknown option {extra[0]!r}{hint}")
    if extra:
        parser.error(f"one argument too many: {extra[0]!r}")
    try:
        defaults = {option.dest: option.default for _, options in groups for option in options}
        return argparse.Namespace(**defaults | command.prepared(vars(said)))
    except ValueError as error:
        parser.error(str(error))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal: words go on below, and what an example is for stands below it where the line is too wide."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            start = indent + line[: len(line) - len(line.lstrip())]
            typed, *what = [line.strip()] if len(indent + line) <= width else re.split(" {2,}", line.strip())
            below = start + "    " if line[:1] == " " else start  # of an example
            for part, first, more in ((typed, start, below), *((words, start + "  ", start + "  ") for words in what)):
                lines += textwrap.wrap(
                    part, width, initial_indent=first, subsequent_indent=more, break_on_hyphens=False
                )
        return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """A parser whose error is one line."""

    def _get_option_tuples(self, option_string):
        """What a shortened option may be: two names of one option are one."""
        return list({id(found[0]): found for found in super()._get_option_tuples(option_string)}.values())

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _interrupted(_signal, _frame) -> NoReturn:
    # at once: an exception could surface in a callback of JAX's and be lost there; what is on disk is whole at any moment
    os.write(2, b"\njaxbackprop: interrupted\n")
    os._exit(130)


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    return " ".join(text.split())
