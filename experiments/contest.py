"""Methods beside one another at one size: built, compared with float64, timed in turn. What fails is a row that says why."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import measure
import numpy as np
from cases import Case, Subject, make_case, reference, tolerance
from ceilings import GRADIENT, NORMS, grown

BASELINE, OURS = "jax.grad", "jbp"
# whatever it is, it is a row with a reason and not the end of the run: on a borrowed device there is no second one
FAILURES = Exception
SAFETY = 4  # the baseline's memory, times this, must be free: the clipped sum takes twice as much, others keep theirs
PENDING, LEFT_OUT = "the run ended before it was timed", "left out: the time was over"


class Built(NamedTuple):
    """A program: calls without arguments, and what its result is on average over the examples."""

    queue: measure.Queue
    mean: Callable[[Any], Any]
    highest: Callable[[], Any] | None = None  # the same with products in full, where that can be had
    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    note: str = ""
    scale: float = 1.0  # its time counts so often: it takes a part of the batch

    def call(self) -> Any:
        """Once, and waited for."""
        return self.queue.wait(self.queue.run())

    def in_full(self) -> Any:
        """Once, with products in full if that can be had: compared, and never timed."""
        return jax.block_until_ready(self.highest()) if self.highest else self.call()


class Method(NamedTuple):
    """One way to one quantity; `build` makes its program for a case, or raises what stands in the way."""

    quantity: str
    name: str
    build: Callable[[Case], Built]
    framework: str = "JAX"
    slow: bool = False  # to compile, or to run: it comes last, alone beside the baseline


class Group(NamedTuple):
    """One subject and dtype, and the batch to begin with."""

    subject: Subject
    dtype: str
    start: int
    methods: tuple[Method, ...]

    def __str__(self) -> str:
        return f"{self.subject.name}, {self.dtype}"


class Terms(NamedTuple):
    """What a group is measured by: seconds of timing, how long a call should be, whether time is over, and who is told."""

    seconds: float
    long_enough: float
    over: Callable[[], bool]
    keep: Callable[[dict], None]
    say: Callable[..., None]


def full_by_default() -> bool:
    """Whether products of float32 keep float32 unless told otherwise: on CPUs; GPUs and TPUs shorten."""
    return measure.on_cpu()


def on_device(function: Callable, case: Case, mean: Callable, note: str = "", share: int = 1) -> Built:
    """Compile for a case, or for the first of `share` equal parts of its batch."""
    data = tuple(a[: case.batch // share] for a in case.data) if share > 1 else case.data
    compiled = measure.compiled(function, case.params, *data)
    measure.require_memory(max(compiled.temporary_bytes, 0))

    def highest():
        with jax.default_matmul_precision("highest"):
            return jax.jit(function)(case.params, *data)

    queue = measure.Queue(lambda: compiled.run(case.params, *data))
    return Built(queue, mean, highest, compiled.compile_seconds, compiled.temporary_bytes, note, share)


def second(pair: tuple) -> Any:
    """Of a value and a gradient."""
    return pair[1]


def by_jax_grad(case: Case) -> Built:
    """The plain loss, differentiated as anyone would."""
    return on_device(jax.value_and_grad(case.subject.loss), case, second)


PLAIN = Method(GRADIENT, BASELINE, by_jax_grad)


# ---- the size


def sized(group: Group, long_enough: float) -> tuple[Case, Built, str]:
    """The batch at which `jax.grad` takes long enough, its program there, and why the batch is not larger."""
    made: dict[int, tuple[Case, Built]] = {}
    needed: dict[int, int] = {}

    def seconds_of(batch):
        made.clear()  # before the next is made
        case = make_case(group.subject, batch, group.dtype)
        built = PLAIN.build(case)
        seconds = measure.best_of(built.call)
        made[batch] = case, built
        needed[batch] = sum(a.nbytes for a in case.data) + max(built.temporary_bytes or 0, 0)
        return seconds

    def fits(batch):
        size = max(needed)
        return SAFETY * needed[size] * batch / size <= measure.memory()[1]

    batch, _, why = grown(seconds_of, fits, group.start, long_enough)
    if batch not in made:
        seconds_of(batch)
    return *made[batch], why


def as_given(group: Group, _: float) -> tuple[Case, Built, str]:
    """The batch to begin with, as it is."""
    case = make_case(group.subject, group.start, group.dtype)
    return case, PLAIN.build(case), "given"


# ---- one group


class Contest:
    """One group's methods at one size: what was built, and a row for each, kept as soon as there is something to say."""

    def __init__(self, group: Group, case: Case, expected: dict[str, Any], about: dict, terms: Terms):
        self.group, self.case, self.expected, self.about, self.terms = group, case, expected, about, terms
        self.rows: dict[str, dict] = {}
        self.built: dict[str, Built] = {}
        self.allowed = self.allowed_by_default = tolerance(group.dtype, case.batch)

    def keep(self, method: Method, **more) -> None:
        """What is known of a method by now."""
        self.rows[method.name] = row = self.rows.get(method.name, row_of(method, self.about)) | more
        self.terms.keep(row)

    def enter(self, method: Method) -> None:
        """Build a program and compare it: what is wrong, of ours, is not timed."""
        self.terms.say(f"{self.group}: {method.name}")
        if self.terms.over():
            return self.keep(method, reason=LEFT_OUT)
        try:
            program = method.build(self.case)
            errors = compared(program, method, self.expected[method.quantity], self.allowed)
        except FAILURES as error:
            return self.keep(method, reason=measure.reason(error))
        if method.name == BASELINE:
            self.allowed, self.allowed_by_default = (
                tolerance(self.group.dtype, self.case.batch, error) for error in errors.values()
            )
        error = errors["difference"]
        wrong = not error <= (self.allowed if program.highest else self.allowed_by_default)
        if wrong and method.name.startswith(OURS):
            return self.keep(method, reason=f"WRONG by {error:.2g}: not timed", **errors)
        # a peer is timed all the same: this is what one gets from it
        note = f"{program.note} off by {error:.1g}".strip() if wrong else program.note
        self.built[method.name] = program
        return self.keep(method, reason=PENDING, note=note, **errors)

    def time(self, methods: Collection[Method], seconds: float) -> None:
        """Those that were built, in turn and beside the baseline, which keeps the figures that it has."""
        methods = [m for m in methods if m.name in self.built]
        if not methods:
            return
        queues = {name: self.built[name].queue for name in (BASELINE, *(m.name for m in methods)) if name in self.built}
        rest = {m.name for m in methods if m.framework != "JAX"}
        self.terms.say(f"{self.group}: timing")
        try:
            times = measure.queued_in_turn(queues, seconds, rest=rest)
        except FAILURES as error:
            if len(methods) > 1:  # which of them it was is seen when each is alone
                for method in methods:
                    self.time([method], seconds / len(methods))
            else:
                self.keep(methods[0], reason=f"while timing: {measure.reason(error)}")
            return
        for m in methods:
            self.keep(m, **figures(self.case, m.quantity, self.built[m.name], times[m.name], times.get(BASELINE)))


def row_of(method: Method, about: dict) -> dict:
    """What every row begins with."""
    return about | {"quantity": method.quantity, "method": method.name, "reason": None}


def measure_group(group: Group, terms: Terms, size: Callable = sized) -> None:
    """Find the size, then build and time: the quick methods together, each slow one by itself."""
    about = {"network": group.subject.name, "batch": group.start, "dtype": group.dtype}
    terms.say(f"{group}: how many examples")
    try:
        case, baseline, why = size(group, terms.long_enough)
        terms.say(f"{group}: reference")
        contest = Contest(
            group,
            case,
            reference(case),
            about | {"batch": case.batch, "batch_is": why, "compared": case.period},
            terms,
        )
    except FAILURES as error:
        for method in (PLAIN, *group.methods):
            terms.keep(row_of(method, about) | {"reason": measure.reason(error)})
        return
    # first, for what it says of the arithmetic
    quick = [PLAIN._replace(build=lambda _: baseline), *(m for m in group.methods if not m.slow)]
    for method in quick:
        contest.enter(method)
    contest.time(quick, terms.seconds / 2)
    slow = [m for m in group.methods if m.slow]
    for method in slow:
        contest.enter(method)
        contest.time([method], terms.seconds / 2 / len(slow))
        contest.built.pop(method.name, None)


def measured_at(group: Group, seconds: float) -> dict[str, dict]:
    """A row for each method, none of them slow, at the batch that the group begins with."""
    rows: dict[str, dict] = {}
    terms = Terms(2 * seconds, 0.0, lambda: False, lambda row: rows.update({row["method"]: row}), lambda *_: None)
    measure_group(group, terms, as_given)
    return rows


def compared(program: Built, method: Method, expected: Any, allowed: float) -> dict[str, float]:
    """The error of what is timed; where products are shortened, also of the same program with full ones."""

    def difference(result):
        given = program.mean(result)
        if method.quantity == NORMS:  # of the first and of the last slice
            given = np.concatenate([given[: len(expected)], given[-len(expected) :]])
            return measure.relative_error(given, np.tile(expected, 2))
        return measure.relative_error(given, expected)

    by_default = in_full = difference(program.call())
    if not full_by_default() and not by_default <= allowed:
        in_full = difference(program.in_full())
    return {"difference": in_full, "difference_default": by_default}


def figures(case: Case, quantity: str, program: Built, times: measure.Times, beside: measure.Times | None) -> dict:
    """What is written down of a program that was timed."""
    faster = beside and measure.median(
        [b / (program.scale * t) for b, t in zip(beside.queued, times.queued, strict=True)]
    )
    temporary = program.temporary_bytes
    return case.work(quantity) | {
        "reason": None,
        "ms": 1e3 * program.scale * measure.median(times.queued),
        "awaited_ms": 1e3 * measure.median(times.awaited) if program.scale == 1 else None,
        "times_faster": faster,
        "compile_s": program.compile_seconds,
        "temporary_MB": None if temporary is None else temporary / 1e6,
        "rounds": len(times.queued),
    }
