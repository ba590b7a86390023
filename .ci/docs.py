"""The guides and the reference as web pages, README.md in front: `pip install '.[docs]' && python .ci/docs.py`.

pdoc renders them: the mathematics is written in Unicode, which reads alike in `help`, in a terminal and on a page, so that
nothing has to set it. A warning is an error here.
"""

import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import warnings
from pathlib import Path

import pdoc

import jaxbackprop

HOUSE = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)")  # a file that README links to, or shows


class Written(str):
    """A type as the source writes it."""

    __repr__ = str.__str__


def written(kind: object, *_where: object) -> object:
    """An annotation that keeps the names of its aliases; pdoc would put what they stand for in their place."""
    kind = getattr(kind, "__forward_arg__", kind)
    return Written(kind) if isinstance(kind, str) else kind


def front_page(out: Path) -> str:
    """README, its pictures given by their full paths, its links leading to pages, or to copies of the files."""

    def target(match: re.Match) -> str:
        name = match[1]
        if not (HOUSE / name).is_file():
            raise SystemExit(f"README.md links to {name}, which is no file")
        if match.string[: match.start()].rpartition("[")[0].endswith("!"):
            return str(HOUSE / name)  # a picture: pdoc draws it into the page
        if name.startswith("jaxbackprop/") and name.endswith(".py"):
            return name.removesuffix("/__init__.py").removesuffix(".py") + ".html"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOUSE / name, out / name)
        return name

    return LINK.sub(target, (HOUSE / "README.md").read_text())


def build(out: Path) -> None:
    """Write a page for each module: its guide, then what is in it."""
    found = pkgutil.walk_packages(jaxbackprop.__path__, "jaxbackprop.")
    names = ["jaxbackprop", *(m.name for m in found if not re.search(r"\._|\.conftest", m.name))]
    for name in jaxbackprop.__all__:
        getattr(jaxbackprop, name)  # each is imported when it is asked for, and pdoc only looks
    modules = {name: pdoc.doc.Module(importlib.import_module(name)) for name in names}
    root = modules["jaxbackprop"]
    root.docstring = f"{front_page(out)}\n\n# The guide\n\n{inspect.getdoc(jaxbackprop)}"
    root.submodules = [module for name, module in modules.items() if name.count(".") == 1]
    for name, module in modules.items():
        page = out / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(pdoc.render.html_module(module, modules))
    (out / "index.html").write_text(pdoc.render.html_index(modules))
    (out / "search.js").write_text(pdoc.render.search_index(modules))
    print(f"{len(modules)} pages: {out / 'index.html'}")


def main() -> None:
    """Build the pages in the folder that is named, or in `site`."""
    warnings.simplefilter("error")
    pdoc.render.configure(docformat="google", include_undocumented=False)
    pdoc.doc.safe_eval_type = written
    build(Path(*sys.argv[1:2] or ["site"]))


if __name__ == "__main__":
    main()
