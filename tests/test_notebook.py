"""What a notebook shows: tables of factored gradients and explanations, whatever stands in them."""

import html.parser
import re
from html import escape

import jax
import jax.numpy as jnp
import pytest

import jaxbackprop as jbp
from jaxbackprop.mathematics import Maths
from jaxbackprop.spelling import aligned
from jaxbackprop.tables import as_html, as_markdown
from jaxbackprop.tracing.derivation import work

NET = jbp.skip_mlp((2, 3, 3, 1), bias=True)


def factored():
    params = jbp.init(NET, jax.random.key(0))
    return jbp.per_example(NET, "half_squared_error")(params, jnp.ones((4, 2)), jnp.ones((4, 1)))[1]


def explained():
    return jbp.explain(lambda p, x: jnp.sum((x @ p["w|<w>"]) ** 2))({"w|<w>": jnp.ones((2, 3))}, jnp.ones(2))


ODD = r"a|b<c>`$d_*{%\\x~^é"  # letters that HTML, Markdown and LaTeX would take for theirs


def traced():
    net = jbp.Network(1, (jbp.Layer(ODD, 2, ("x",), "relu"), jbp.Layer("yhat", 2, (ODD,))))
    return jbp.trace(net, "softmax_cross_entropy", jbp.init(net, jax.random.key(0)), 1.0, 1)


def checked():
    return jbp.check_gradient(lambda p: jnp.sum(p[ODD] ** 2), lambda p: {ODD: p[ODD]}, {ODD: jnp.arange(3.0)})


def graded():
    pytest.importorskip("lark")
    return jbp.grade(f"z = w x\nL = 1/2 (z - y)^2\ndL/dw = (z - y) x\ndL/dx = (z - y) x\n{ODD} = $1|2$ <b>")


def derived():
    pytest.importorskip("lark")
    return work("z = w x\nh = relu(z)\nL = 1/2 ||h - y||^2", {"w": [[1, 2], [3, 4]], "x": [1, -1], "y": [0, 0]})


MADE = [factored, explained, traced, checked, graded, derived]


class Cells(html.parser.HTMLParser):
    """What stands in each cell: text, with a line break for <br>."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open, self.tags = [], False, set()
        self.feed(page)

    def handle_starttag(self, tag, _attrs):
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.open = True
            self.found.append("")
        elif tag == "br" and self.open:
            self.found[-1] += "\n"

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("th", "td")

    def handle_data(self, data):
        if self.open:
            self.found[-1] += data


def plain(tex):
    """Mathematics as a page's reader has it: no matter which word stands for a sign there."""
    for said, sign in ((r"\lt ", "<"), (r"\gt ", ">"), (r"\unicode{36}", r"\$")):
        tex = tex.replace(said, sign)
    return " ".join(tex.split())


def same(cell, shown):
    """Whether a page shows a cell: its letters, or where it is a formula its lines, each between dollars."""
    if not isinstance(cell, Maths):
        return shown == cell
    lines = [plain(line.strip("$")) for line in shown.split("\n")]
    assert shown.count("$") == 2 * sum(map(bool, cell.split("\n")))
    return lines == [" ".join(Maths(line).tex.split()) for line in cell.split("\n")]


@pytest.mark.parametrize("make", MADE)
def test_a_page_shows_every_cell(make):
    shown = make()
    table, below = shown.table()
    cells = [cell for line in table for cell in line]
    page = Cells(shown._repr_html_())
    assert len(page.found) == len(cells)
    assert all(map(same, cells, page.found))
    assert page.tags <= {"table", "tr", "th", "td", "div", "br", "code"}
    for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", shown._repr_html_()):  # in <code> no page looks for mathematics
        assert "$" not in cell or cell.startswith(("$", "<code>")) or cell.startswith("<br>$")
    assert all(escape(line) in shown._repr_html_() for line in below)


@pytest.mark.parametrize("make", MADE)
def test_markdown_shows_every_cell(make):
    markdown_it = pytest.importorskip("markdown_it")
    shown = make()
    table, _ = shown.table()
    text = shown._repr_markdown_()
    rendered = markdown_it.MarkdownIt("commonmark").enable("table").render(re.sub(r"\$[^$\n]+?\$", mathematics, text))
    page = Cells(rendered)
    assert "b" not in page.tags
    found = [re.sub("⟦(.*?)⟧", lambda m: f"${bytes.fromhex(m[1]).decode()}$", cell) for cell in page.found]
    cells = [cell for line in table for cell in line]
    assert len(found) == len(cells)
    for cell, seen in zip(cells, found, strict=True):
        assert same(cell, seen), (cell, seen)


def mathematics(match):
    """A formula as something that Markdown leaves alone, as a notebook does with what stands between dollars."""
    assert "|" not in match[0]
    return f"⟦{match[0][1:-1].encode().hex()}⟧"


@pytest.mark.parametrize("make", MADE)
def test_latex_has_every_cell_and_is_balanced(make):
    shown = make()
    table, below = shown.table()
    text = shown._repr_latex_()
    array, *lines = text.split("$$")[1::2]
    assert len(lines) == len(below)
    for part in (array, *lines):
        bare = re.sub(r"\\[\\&%$#_{}]", "", part)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"[%#$~]", bare)
        assert not re.search(r"[_^][^{]", bare)
    body = re.sub(r"\\begin\{array\}\{l\}.*?\\end\{array\}", "…", array)
    rows = [row for row in body.split("\n")[1:-1] if row]
    assert len(rows) == len(table)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(table[0]) - 1}


@pytest.mark.parametrize("make", MADE)
def test_at_the_prompt_it_is_what_print_shows(make):
    shown = make()
    assert repr(shown) == str(shown)
    assert shown.table()[1][-1].split()[-1] in repr(shown)


@pytest.mark.parametrize("make", [explained, checked])
def test_it_is_as_wide_as_the_terminal_and_in_a_pipe_a_line_stays_one(make, monkeypatch):
    shown = make()
    wide = str(shown)
    monkeypatch.setenv("COLUMNS", "75")
    lines = str(shown).splitlines()
    assert max(map(len, lines)) <= 75 < max(map(len, wide.splitlines()))
    assert sorted("".join(wide.split())) == sorted("".join("".join(lines).split()))  # nothing is lost


def test_what_stands_where():
    assert r"= p - y$" in traced()._repr_html_()
    assert r"\frac{\partial L}{\partial w} = \frac{\partial L}{\partial z}\,x^{\top}" in derived()._repr_latex_()
    verdict = graded()
    assert [line[2] for line in verdict.table()[0]][1:4] == ["right", "right", "right"]
    assert verdict.table()[0][4][2] == "wrong"
    assert "WRONG" in checked()._repr_html_()


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
    assert as_markdown(table).splitlines() == ["| a |", "| --- |", "| x\\|y<br>z |", "| &lt;b&gt; |"]
    assert "&lt;b&gt;" in as_html(table)
    assert aligned([("a", "b"), ("cc", "1")], right={1}) == ["a   b", "cc  1"]
