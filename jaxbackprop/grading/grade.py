"""A written derivation in, a verdict per line out.

    text --lines, notation--> equations --reading, choice--> a network, its values and adjoints --judge--> right or wrong, and why

The network is what the forward equations say; without any it is the exercise's. Each equation is judged by itself: the
two sides are compared as numbers, with the right adjoints upstream, at points that cover every on/off pattern of the
units. Nothing in the text is ever executed.
"""

from typing import Any

from jaxbackprop.grading.judge import judge
from jaxbackprop.grading.report import Verdict
from jaxbackprop.spelling import extra


def grade(text: str, network: Any = None) -> Verdict:
    """Judge a written derivation, equation by equation.

    Plain text, Unicode, LaTeX, NumPy and Markdown are read; prose is passed over; every line with an equals sign is in the
    result. Forward equations define the network; where the text has none, or leaves open what the exercise defines, it is
    the exercise: z0 = w0 x, h0 = g(z0), z1 = w1 h0, h1 = g(z1), z2 = w2 h1 + w3 h0, yhat = z2 with g(z) = 0 for z < 0, z
    otherwise. The loss is the scalar whose derivatives are taken, whatever it is called. Without one the adjoint of the
    output is given; a text that says what it is, of y, is held to half the squared error, or to the cross-entropy where
    its lines hold for that after a sigmoid or a softmax, and the verdict says so. Where g has a kink the stated branch
    decides its slope at 0; another choice is accepted with a remark.

    Whether names are numbers, vectors, matrices, a batch as rows or as columns, or families with index letters follows
    from their marks (^T, @, norms, axis=, capitals, letters); where that leaves a choice, the reading under which the
    forward equations fit and the most lines hold counts: `Verdict.basis` says which. All sizes differ, so that a missing
    transpose does not fit. What was not read whole is not judged, nor what depends on a definition that was not read.
    Layers and steps counted by a letter (z^l, h_{t-1}) are those that the text speaks of: equations that hold at each are
    written out there, what comes in at the first is given, and so is the adjoint of what goes out. What a step shares
    with all others (W) is judged for one step alone; in a text that adds up over all steps, Σ_t or from 1 to T, for all of
    them. Second derivatives are judged of numbers. Statements of code are judged where they are finished: dW = ..., and dW += ...
    below it, is one equation. Where a name is defined anew, after derivatives, a new part begins, which has what it does not
    define from the parts above. Not read: sums over some of the steps, other indices that are computed, loops.

    Args:
        text: at most 100,000 characters and 400 equations.
        network: a `jaxbackprop.Network` to judge by, instead of the text's forward equations. Its weights are named as
            in the text's forward equations, or w0, w1, ... in the network's order, or w_yhat_h0 by their edge.

    Returns:
        A `Verdict`: `lines`, `ok`, `score`; `str(verdict)` for people, `to_dict()` for programs.

    Raises:
        TypeError: the text is not a string, or the network not a network.
        ValueError: the text is too long, or has no equation.
        ImportError: the extra `grade` is not installed.

    >>> verdict = grade("dL/dz1 = dL/dh1 * [z1 >= 0]; dL/dh0 = dL/dz1 * w1")
    >>> [(line.quantity, line.status) for line in verdict.lines]
    [('dL/dz1', 'right'), ('dL/dh0', 'wrong')]
    >>> verdict.lines[1].reason.split(";")[0]
    'the path h0 -> yhat is missing'
    """
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}: give the derivation as a string")
    extra("lark", "the parser lark", "grade", "grade")
    return judge(text, network)
