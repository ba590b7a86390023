r"""A written derivation, marked line by line: `grade`.

What it is for. A student derives the gradient of a network on paper; `grade(text)` takes it as people type it (plain text,
Unicode, LaTeX, as a scan gives it too) and returns a verdict for each line. What a teacher may rely on, in this order: no
right line is called wrong; no line is lost, each one with an equals sign is in the verdict; no wrong line is called right;
and then as much is read as can be. What was not read is said to be so, and is neither right nor wrong.

The mathematics. The forward equations say the network, and the loss; where there are none it is the exercise of
`jaxbackprop.exercise`, with half the squared error. Each line is then judged by itself. Both its sides are computed at
random points, which cover every on/off pattern of the units, with the RIGHT adjoints put in on its right side: for the
exercise

    dL/dz2 = yhat − y                      right
    dL/dh0 = w1 dL/dz1                     wrong: the path h0 → yhat is missing; dL/dh0 = w1 dL/dz1 + w3 dL/dz2
    dL/dz0 = dL/dh0 · [z0 >= 0]            right, though the line above is not: an error is counted once, where it is made

Smooth formulas that differ agree at a random point with probability zero: a wrong line has a counterexample, and is shown
with it. At a kink the branch "otherwise" decides, as in the exercise: relu'(0) = 1.

>>> import jaxbackprop as jbp
>>> verdict = jbp.grade("dL/dz1 = dL/dh1 * [z1 >= 0]; dL/dh0 = dL/dz1 * w1; dL/dz0 = dL/dh0 * [z0 >= 0]")
>>> [(line.quantity, line.status) for line in verdict.lines]
[('dL/dz1', 'right'), ('dL/dh0', 'wrong'), ('dL/dz0', 'right')]
>>> verdict.ok, "the path h0 -> yhat is missing" in verdict.lines[1].reason
(False, True)

Layers that a letter counts, z^l = W^l a^{l-1}, and steps in time are read: in a text that adds up over all steps it is
backpropagation through time, W's derivative that of all of them.

>>> steps = "h_t = tanh(W x_t + U h_{t-1}); L = Σ_t ½ ‖h_t − y_t‖²; dL/dU = Σ_t (dL/dh_t ⊙ (1 − h_t²)) h_{t-1}^T"
>>> jbp.grade(steps).ok, jbp.grade(steps.replace("Σ_t (dL/dh_t", "Σ_t ((h_t − y_t)")).ok  # the way through h_{t+1} left out
(True, False)

Code is read as its statements say: dz = dh; dz[z <= 0] = 0 and dW += λ W are one equation with the line that they change,
p[range(n), y] is the entry of each row's class, and in a text with @ or .dot the star goes entry by entry.

>>> code = "z = W @ x\nh = relu(z)\ndz = dh.copy()\ndz[z <= 0] = 0\ndW = np.outer(dz, x)"
>>> [line.status for line in jbp.grade(code).lines]
['right', 'right', 'right', 'right', 'right']
>>> jbp.grade(code.replace("dz[z <= 0]", "dz[z > 0]")).slips
1

A condition is one wherever it stands, "if z > 0: dL/dz = dL/da, otherwise 0" or "for i ≠ j"; what is added up in a loop over
examples is a sum over them, and `J = 1/m Σ_i L(a_i, y_i)` leaves dz_i the derivative of its own example's loss, if the lines
mean it so. A step of the training is right where it goes down the derivative; with the numbers that it gives the text goes on.

>>> grade = lambda text: [line.status for line in jbp.grade(text).lines]
>>> grade("h = relu(z); L = ½ (h - y)²\nIf z > 0: dL/dz = h - y\nOtherwise: dL/dz = 0")
['right', 'right', 'right', 'right']
>>> grade("z = w x; L = (z - y)²\nw ← w - η 2 (z - y) x\nw ← w - η (z - y) x")
['right', 'right', 'right', 'wrong']

Worked numbers are compared at the numbers that the text gives, those of vectors and matrices too. A value at which a text ends,
w = (XᵀX)⁻¹ Xᵀ y, is right where the derivative by w is 0 there.

>>> grade("x = [1, 2], W = [[1, 0], [2, 1]]\nz = W x = [1, 4]\nL = ½ ‖z‖²\ndL/dx = W^T z = [9, 5]")[-2:]
['right', 'wrong']

Of a function that is not said, L in J = L(W) + ½ λ ‖W‖² or an f without a formula, what holds of any is right and what does
not follow is not judged; an activation that is named in words, "with f the sigmoid", is that one.

A text that begins anew, y = x², dy/dx = 2x, and below it y = sin x, is judged part by part; `basis` says so.

What it says. `line.status`, `line.reason` with a counterexample, `line.correction` with the right line, `line.row` where it
stands; `print(verdict)` is a table, `verdict.to_dict()` the same as JSON can hold it. `jaxbackprop grade derivation.md`
prints it, with exit status 1 if a line is wrong, 3 if more than a fifth could not be judged. A line that follows from a
wrong one without a mistake of its own is "right given the line above". Nothing in a text is ever executed, and time, memory
and nesting are bounded, so that a stranger's text may be graded.

What to read next. `help(jaxbackprop.grade)`; `jaxbackprop.tracing`, the right derivation with its numbers.

In the order to read them: report | expression, grammar, arrays, counters, words, characters, vocabulary, notation | sides,
guards, wording, pieces, lines | values, curvature, updates, claims, meanings, reading, statements, sections, stages, shapes |
world, derivatives, points | comparison, choice, wiring, slips | diagnosis, correction, numbers | unjudged, telling, judge, grade.
`jaxbackprop.tracing` works a text through.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
