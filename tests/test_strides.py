"""Views by their strides beside NumPy's own indexing, and a convolution's windows beside JAX's convolution; in whole numbers."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.lax import ConvDimensionNumbers

from jaxbackprop.programs.axes import moved, of_leaf
from jaxbackprop.programs.flat import flatten
from jaxbackprop.strides import Axis, are_apart, axes_of, levels, put_back, seen, size_of
from jaxbackprop.windows import Window, patches

DIVISORS = {n: [d for d in range(1, n + 1) if n % d == 0] for n in range(1, 6**4 + 1)}
STEPS = {
    "transpose": lambda a, order: jax.lax.transpose(a, order),
    "reshape": lambda a, shape: jax.lax.reshape(a, shape),
    "slice": lambda a, cut: jax.lax.slice(a, *cut),
    "flip": lambda a, axes: jax.lax.rev(a, axes),
}
IN_NUMPY = {
    "transpose": np.transpose,
    "reshape": np.reshape,
    "slice": lambda a, cut: a[tuple(map(slice, *cut))],
    "flip": np.flip,
}


@st.composite
def shapes(draw):
    return tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))


@st.composite
def slices(draw, shape, steps=(1, 1, 2, 3)):
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    ends = [draw(st.integers(start + 1, n)) for start, n in zip(starts, shape, strict=True)]
    return starts, ends, [draw(st.sampled_from(steps)) for _ in shape]


@st.composite
def steps_of(draw, shape):
    """One step that moves the numbers of an array of this shape, as (name, argument)."""
    name = draw(st.sampled_from(["transpose", "join", "split", "reshape", "slice", "flip"]))
    if name == "transpose":
        return name, tuple(draw(st.permutations(range(len(shape)))))
    if name == "flip":
        return name, tuple(i for i in range(len(shape)) if draw(st.booleans()))
    if name == "slice":
        return name, draw(slices(shape))
    i = draw(st.integers(0, len(shape) - 1))
    if name == "join":
        return "reshape", (*shape[:i], int(np.prod(shape[i : i + 2])), *shape[i + 2 :])
    if name == "split":
        d = draw(st.sampled_from(DIVISORS[shape[i]]))
        return "reshape", (*shape[:i], d, shape[i] // d, *shape[i + 1 :])
    cuts, rest = [], int(np.prod(shape))
    for _ in range(draw(st.integers(0, 3))):
        cuts.append(draw(st.sampled_from(DIVISORS[rest])))
        rest //= cuts[-1]
    return "reshape", (*cuts, rest)


@st.composite
def chains(draw, shape):
    """Some steps one after another; each fits what the one before it leaves."""
    found, like = [], np.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        found.append(draw(steps_of(like.shape)))
        like = IN_NUMPY[found[-1][0]](like, found[-1][1])
    return found


def applied(steps, a, rules):
    for name, argument in steps:
        a = rules[name](a, argument)
    return a


def view_of(shape, steps):
    """The view of a parameter of this shape that the steps of the traced program leave; None where one makes none."""
    program = flatten(lambda w: applied(steps, w, STEPS), jnp.zeros(shape))
    view = of_leaf(0, program.shapes[program.inputs[0]])
    for step in program.steps:
        (view,) = (view and moved(view, step, [program.shapes[step.writes[0]]])) or [None]
    return view


def is_surely_a_view(steps):
    """Transposes, flips, cuts by 1 and joins, where nothing that was joined is cut: a view whatever the lengths are."""
    joined, shape = False, None
    for name, argument in steps:
        if name == "reshape":
            if shape is None or 1 in argument or len(argument) != len(shape) - 1:
                return False
            joined = True
        if name == "slice" and (joined or set(argument[2]) != {1}):
            return False
    return True


def counting(shape):
    return np.arange(1.0, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


@settings(max_examples=70)
@given(st.data(), shapes())
def test_a_view_is_what_the_steps_make_of_the_array(data, shape):
    steps = data.draw(chains(shape))
    W = counting(shape)
    wanted = applied(steps, W, IN_NUMPY)
    view = view_of(shape, steps)
    if view is None:
        assert not is_surely_a_view(steps)
        return
    found = seen(jnp.asarray(W), view.offset, view.axes)
    assert found.shape == wanted.shape == tuple(map(size_of, view.axes))
    assert np.array_equal(found, wanted)

    # the transpose of `seen`: what was seen goes back to its place, and 0 elsewhere
    back = put_back(found, shape, view.offset, view.axes)
    assert np.array_equal(back, np.where(np.isin(W, wanted), W, 0))
    G = np.random.default_rng(0).integers(-4, 5, size=(2, *wanted.shape)).astype(np.float32)
    each = put_back(jnp.asarray(G), shape, view.offset, view.axes, leading=1)
    assert each.shape == (2, *shape)
    for one, g in zip(each, G, strict=True):
        assert np.sum(np.asarray(one) * W) == np.sum(g * wanted)


def test_the_chains_give_views_often_enough():
    """The property above says nothing of a chain without a view: count them in a fixed sample."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        shape = tuple(rng.choice([2, 3, 4, 6], size=3).tolist())
        order = tuple(rng.permutation(3).tolist())
        start = rng.integers(0, 2, size=3).tolist()
        cut = (start, [int(shape[i]) for i in order], rng.integers(1, 3, size=3).tolist())
        steps = [("transpose", order), ("slice", cut), ("flip", (int(rng.integers(3)),))]
        found.append(view_of(shape, steps) is not None)
    assert sum(found) >= 20


@pytest.mark.parametrize(
    "steps",
    [
        [("transpose", (2, 0, 1)), ("reshape", (8, 6))],
        [("reshape", (4, 2, 3, 2)), ("transpose", (1, 3, 0, 2)), ("reshape", (4, 12))],
        [("slice", ([1, 0, 0], [3, 6, 2], [1, 1, 1])), ("reshape", (2, 12)), ("flip", (1,))],
        [("slice", ([0, 1, 0], [4, 6, 2], [1, 2, 1])), ("flip", (0, 1))],
        [("slice", ([2, 0, 0], [3, 6, 2], [1, 1, 1])), ("reshape", (6, 2)), ("transpose", (1, 0))],
        [("flip", (0,)), ("slice", ([1, 0, 0], [2, 6, 1], [1, 1, 1]))],
    ],
)
def test_these_are_followed(steps):
    view = view_of((4, 6, 2), steps)
    assert view is not None
    W = counting((4, 6, 2))
    assert np.array_equal(seen(jnp.asarray(W), view.offset, view.axes), applied(steps, W, IN_NUMPY))


def test_a_part_without_numbers_is_no_view():
    assert view_of((3, 4), [("slice", ([0, 0], [0, 4], [1, 1]))]) is None


def test_a_parameter_of_one_number_is_followed():
    assert view_of((1, 1), [("transpose", (1, 0)), ("reshape", (1,)), ("flip", (0,))]) is not None
    assert put_back(jnp.full((1,), 3.0), (1, 1), 0, ((),)).tolist() == [[3.0]]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1, 3), (4, 6, 2), (1, 1), (5, 1)])
def test_axes_of_are_the_strides_of_numpy(shape):
    a = np.zeros(shape)
    strides = [stride // a.itemsize for stride in a.strides]
    wanted = tuple((Axis(n, s),) if n > 1 else () for n, s in zip(shape, strides, strict=True))
    assert axes_of(shape) == wanted


def test_levels_are_ranges():
    assert levels(12, 0, (Axis(2, 3), Axis(2, 6))) is not None
    assert levels(12, 0, (Axis(5, 3),)) is None  # beyond the end
    assert levels(12, 11, (Axis(2, 1),)) is None
    assert levels(12, 5, (Axis(2, 5),)) is None  # 12 are not cut by 5
    assert levels(12, 1, (Axis(2, 2), Axis(2, 1))) is None  # 1, 2 and 3, 4 cross the pairs
    for cut in (levels(24, 23, (Axis(4, -6), Axis(3, -1))), levels(24, 3, (Axis(4, 6), Axis(3, 1)))):
        assert [level.full for level in cut] == [4, 6]
        assert all(a.full * b.full <= 24 for a, b in pairwise(cut))
        assert cut[1].start == 3


@settings(max_examples=60)
@given(st.data(), shapes())
def test_views_that_are_apart_share_no_number(data, shape):
    views = [view_of(shape, data.draw(chains(shape))) for _ in range(2)]
    assume(None not in views)
    n = int(np.prod(shape))
    one, other = ((view.offset, sum(view.axes, ())) for view in views)
    index = jnp.arange(n, dtype=jnp.float32)
    share = np.isin(*(np.asarray(seen(index, view.offset, view.axes)).ravel() for view in views)).any()
    assert are_apart(n, one, other) == are_apart(n, other, one)
    assert not (share and are_apart(n, one, other))


@settings(max_examples=60)
@given(st.data(), st.lists(st.sampled_from([4, 5, 6]), min_size=1, max_size=3))
def test_boxes_are_apart_where_they_do_not_meet(data, shape):
    """Parts of at least 2 along every axis are cut alike, turned or not: there the answer is exact."""
    boxes = []
    for _ in range(2):
        starts = [data.draw(st.integers(0, n - 2)) for n in shape]
        ends = [data.draw(st.integers(start + 2, n)) for start, n in zip(starts, shape, strict=True)]
        order = tuple(data.draw(st.permutations(range(len(shape)))))
        boxes.append([("slice", (starts, ends, [1] * len(shape))), ("transpose", order)])
    W = counting(shape)
    meet = np.isin(*(applied(steps, W, IN_NUMPY).ravel() for steps in boxes)).any()
    one, other = ((view.offset, sum(view.axes, ())) for view in (view_of(shape, steps) for steps in boxes))
    assert are_apart(W.size, one, other) == (not meet)


# ---- windows


@st.composite
def convolutions(draw):
    """Settings of jax.lax.conv_general_dilated with at least one place, and the shapes of its operands."""
    places = draw(st.integers(1, 2))
    pick = lambda *choices: [draw(st.sampled_from(choices)) for _ in range(places)]  # noqa: E731
    size, kernel, strides, spread, dilation = pick(3, 4, 5), pick(1, 2, 3), pick(1, 2, 3), pick(1, 2, 3), pick(1, 2)
    padding = list(zip(pick(-1, 0, 1, 2), pick(-2, 0, 1), strict=True))
    for n, k, s, e, pad in zip(size, kernel, spread, dilation, padding, strict=True):
        assume((n - 1) * s + 1 + sum(pad) >= (k - 1) * e + 1)
    groups, N, C, O = (draw(st.sampled_from(choices)) for choices in ([1, 2, 3], [1, 2], [1, 2], [1, 2]))
    lhs, rhs, out = (tuple(draw(st.permutations(range(places + 2)))) for _ in range(3))
    operands = []
    for spec, sizes in ((lhs, (N, C * groups, *size)), (rhs, (O * groups, C, *kernel))):
        operands.append(tuple(np.asarray(sizes)[np.argsort(spec)].tolist()))
    given = {
        "window_strides": strides, "padding": padding, "lhs_dilation": spread, "rhs_dilation": dilation,
        "feature_group_count": groups, "dimension_numbers": ConvDimensionNumbers(lhs, rhs, out),
    }  # fmt: skip
    return given, tuple(kernel), operands


@settings(max_examples=25)
@given(convolutions())
def test_a_convolution_is_a_product_with_what_its_window_sees(convolution):
    given, kernel_size, shapes = convolution
    rng = np.random.default_rng(0)
    image, kernel = (jnp.asarray(rng.integers(-3, 4, size=shape), jnp.float32) for shape in shapes)
    wanted = jax.lax.conv_general_dilated(image, kernel, **given)

    (lhs, (O, C, *k), (n, channels, *places)), groups = given["dimension_numbers"], given["feature_group_count"]
    window = Window(
        lhs, kernel_size, *(tuple(given[name]) for name in ("window_strides", "padding", "lhs_dilation")),
        tuple(given["rhs_dilation"]), groups,
    )  # fmt: skip
    h = np.asarray(patches(image, window))
    W = np.transpose(kernel, (O, *k, C)).reshape(groups, shapes[1][O] // groups, -1)
    z = np.moveaxis(np.einsum("ltm,lnm->ltn", h, W), 0, 1)  # places, groups, and their channels
    z = z.reshape(*(wanted.shape[i] for i in (n, *places)), -1)
    assert np.array_equal(np.transpose(z, np.argsort((n, *places, channels))), wanted)
