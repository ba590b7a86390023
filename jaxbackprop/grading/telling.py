"""What the report says of a text: what it was judged as, and a line for each equation, its slips numbered."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxbackprop.grading.claims import Claim
from jaxbackprop.grading.counters import spoken
from jaxbackprop.grading.expression import Expr, show, show_variable
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.report import UNJUDGED, UNREAD, WRONG, Line, Verdict, short
from jaxbackprop.grading.stages import Placed
from jaxbackprop.grading.wording import MATRIX_SIGMA
from jaxbackprop.grading.world import World


class Judged(NamedTuple):
    """Status, reason and the right line of one claim; `left` where an arrow points elsewhere than at its chain's first term."""

    status: str
    reason: str = ""
    correction: str = ""
    left: Expr | None = None
    label: bool = False


def told(lines: Iterable[Line], basis: str, steps: Placed) -> Verdict:
    """The verdict; what a letter counts is written with that letter again, and a matrix Σ so."""
    parts = ("text", "quantity", "reason", "formula", "correction")

    def again(text: str) -> str:
        return (spoken(text, steps.last) if steps.words else text).replace(MATRIX_SIGMA, "Σ")

    return Verdict(tuple(x._replace(**{k: again(getattr(x, k)) for k in parts}) for x in lines), again(basis))


def joined(verdicts: list[Verdict]) -> Verdict:
    """The verdicts on the parts of a text as one, its slips counted through."""
    if len(verdicts) == 1:
        return verdicts[0]
    lines: list[Line] = []
    for verdict in verdicts:
        slips = max((line.slip or 0 for line in lines), default=0)
        lines += [line._replace(slip=line.slip and line.slip + slips) for line in verdict.lines]
    told = [f"from line {v.lines[0].row}: {v.basis}" for v in verdicts if v.lines]
    return Verdict(tuple(lines), f"{len(verdicts)} parts, as names are defined anew; " + "; ".join(told))


def basis(world: World, at_numbers: bool, words: str) -> str:
    """What the text was judged as; `words` say where its network is from."""
    parts = [f"network: {words if words.startswith(('the ', 'no ')) else f'from {words}'}", f"loss: {_loss(world)}"]
    if world.layout.vectors:
        parts.append(_shapes(world))
    if world.loss.each and world.layout.vectors:
        parts.append("derivatives of an example's quantities are those of its own loss")
    if not world.layout.vectors:
        parts.append("numbers with indices" if any(s[0] for s in world.sized.names.values()) else "numbers")
    if world.turned_adjoints:
        parts.append("gradients are laid out as rows")
    if at_numbers:
        parts.append("at the numbers given")
    return "; ".join(parts)


def _loss(world: World) -> str:
    reading = world.reading
    if world.loss.formula is None and reading.loss in reading.definitions:
        return f"{reading.loss} of line {reading.rows.get(reading.loss, '?')}"
    if world.loss.words:
        return world.loss.words
    given = ", ".join(f"dL/d{show_variable((v, ()))}" for v in world.outputs)
    return f"none, {given} {'is' if len(world.outputs) == 1 else 'are'} given" if given else "none"


def _shapes(world: World) -> str:
    """Vectors and matrices, as rows or columns, with the first eight shapes."""
    one = "row" if world.layout.rows else "column"
    what = f"a batch of examples as {one}s" if world.layout.batch else f"one example as a {one}"
    sizes = [(v, "x".join(str(n) for n in (*s[0], *s[1:]))) for v, s in list(world.sized.names.items())[:8] if v]
    return f"vectors and matrices, {what}: {', '.join(f'{show_variable((v, ()))} ({size})' for v, size in sizes)}"


def with_slips(claims: list[Claim], judged: list[Judged], loss: str) -> Iterator[Line]:
    """Number the slips: wrong lines in a row about one quantity are one slip, said twice or taken back."""
    slip, current = 0, None
    quantities = [_quantity(c, j, loss) for c, j in zip(claims, judged, strict=True)]
    for i, (claim, verdict) in enumerate(zip(claims, judged, strict=True)):
        reason, number = verdict.reason, None
        if current is not None and quantities[i] != current[0]:
            current = None
        if verdict.status == WRONG:
            if current is None:
                slip += 1
                current = (quantities[i], claim.row)
                again = _comes_back(i, claims, judged, quantities)
                reason += f"; line {again} comes back to it" if again is not None else ""
            else:
                reason += f"; the same slip as line {current[1]}" if claim.row != current[1] else ""
            number = slip
        yield Line(
            claim.text,
            quantities[i],
            verdict.status,
            reason,
            claim.row,
            _formula(claim, verdict, loss),
            verdict.correction,
            number,
        )


def _comes_back(i: int, claims, judged, quantities) -> int | None:
    """The line on which the same mistake is made again, with nothing else in between."""
    for j in range(i + 1, len(claims)):
        if quantities[j] != quantities[i]:
            return None
        if judged[j].status == WRONG and claims[j].row != claims[i].row:
            return claims[j].row
    return None


def _quantity(claim: Claim, verdict: Judged, loss: str) -> str:
    if claim.bare and verdict.status in (UNREAD, UNJUDGED):
        return ""
    return show(claim.left, loss) if isinstance(claim.left, Expr) else short(claim.text, 40)


def _formula(claim: Claim, verdict: Judged, loss: str) -> str:
    if isinstance(claim.left, Unread) or isinstance(claim.right, Unread):
        return ""
    if claim.bare:
        return show(claim.right, loss)
    return (
        f"{show(verdict.left or claim.left, loss)} {'->' if claim.relation == '→' else '='} {show(claim.right, loss)}"
    )
