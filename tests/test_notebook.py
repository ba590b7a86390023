"""What a notebook shows: tables of factored gradients and explanations, whatever stands in them."""

import html.parser

import jax
import jax.numpy as jnp
import pytest

import jaxbackprop as jbp
from jaxbackprop.tables import aligned, as_html, as_markdown

NET = jbp.skip_mlp((2, 3, 3, 1), bias=True)


def factored():
    params = jbp.init(NET, jax.random.key(0))
    return jbp.per_example(NET, "half_squared_error")(params, jnp.ones((4, 2)), jnp.ones((4, 1)))[1]


def explained():
    return jbp.explain(lambda p, x: jnp.sum((x @ p["w|<w>"]) ** 2))({"w|<w>": jnp.ones((2, 3))}, jnp.ones(2))


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], None

    def handle_starttag(self, tag, _attrs):
        self.open = tag

    def handle_data(self, data):
        if self.open in ("th", "td"):
            self.found.append(data)


@pytest.mark.parametrize("make", [factored, explained])
def test_every_cell_is_in_each_form(make):
    shown = make()
    table, below = shown.table()
    parser = Cells()
    parser.feed(shown._repr_html_())
    assert parser.found == [cell for line in table for cell in line if cell]
    markdown = shown._repr_markdown_().splitlines()
    assert [line.replace("\\|", "").count("|") for line in markdown[: len(table) + 1]] == [len(table[0]) + 1] * (
        len(table) + 1
    )
    for cell in (cell for line in table for cell in line):
        assert cell.replace("|", "\\|") in shown._repr_markdown_()
        assert cell in str(shown)
    assert all(line in str(shown) for line in below)


def test_a_factored_gradient_says_what_is_kept_of_each_parameter():
    table, below = factored().table()
    assert table[2] == ("h0/x", "3×2", "outer", "4×3", "4×2")
    assert len(table) == 1 + sum(1 + len(layer.sources) for layer in NET.layers)
    assert below[0].startswith(f"{4 * 4 * (3 + 3 + 1 + 2 + 3 + 3)} bytes")  # each dz and each h once


def test_it_can_be_shown_while_it_is_traced_or_holds_no_arrays():
    fg = factored()
    said = []
    jax.jit(lambda fg: said.append(repr(fg)) or jbp.norms(fg))(fg)
    assert said == [repr(fg)]
    assert "4×3" not in repr(jax.tree.map(lambda _: None, fg))


def test_what_a_cell_holds_does_not_break_its_form():
    table = [("a",), ("x|y\nz",), ("<b>",)]
    assert as_markdown(table).splitlines() == ["| a |", "| --- |", "| x\\|y z |", "| <b> |"]
    assert "&lt;b&gt;" in as_html(table)
    assert aligned([("a", "b"), ("cc", "1")], right={1}) == ["a   b", "cc  1"]
