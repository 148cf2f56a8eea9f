"""The settings of Sphinx for the site of these pages: ``make site`` builds it, ``make check`` with warnings as errors.

The pages stay plain Markdown that a reader of the repository reads as it is.  So two things that Sphinx wants are
added as it reads them: the lists of pages, which are the tables of ``docs/README.md``, and the reference of the
library, which is made of the docstrings of all that ``import syncer`` offers.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from typing import TYPE_CHECKING

import syncer
from syncer import content, oci

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# A value's signature is made of its annotations, whose names that module imports for types alone.
vars(content).update({name: getattr(oci, name) for name in ("Descriptor", "Digest", "Platform", "Reference")})

project = "syncer"
author = "The syncer developers"
copyright = author  # noqa: A001  (Sphinx's name for it)
version = release = syncer.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**.md", "tests/README.md", "benchmarks/**.md"]
exclude_patterns = [".*", "build", "dist", "output", "syncer", "tests/*/**", "benchmarks/.cache"]
smartquotes = False  # which would make a dash of the two before a flag
nitpicky = False  # annotations name types of single modules, which have no page

myst_heading_anchors = 6  # headings are linked to by GitHub's rule, which MyST follows
myst_links_external_new_tab = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
add_module_names = False
python_maximum_signature_line_length = 80

html_theme = "pydata_sphinx_theme"
html_title = "syncer"
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {"index": "index.html"}
templates_path = ["site"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["pages.html"]}  # all pages at the side, and none in the head
html_theme_options = {
    "navbar_center": [],
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

_LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
_SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def toctrees(index: str) -> str:
    """The hidden lists of pages, one for each section of ``index``: what Sphinx makes its navigation of."""
    trees = []
    for title, section in _SECTION.findall(index):
        pages = [posixpath.normpath(posixpath.join("/docs", link)) for link in _LINK.findall(section)]
        listed = "\n".join(dict.fromkeys(page.removesuffix(".md") for page in pages))
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n")
    return "\n".join(trees)


def reference() -> str:
    """The docstrings of all that ``import syncer`` offers, as directives."""
    parts = ["\n## Reference\n"]
    for name in syncer.__all__:
        offered = getattr(syncer, name)
        if inspect.ismodule(offered):
            parts.append(directive(name, f"automodule:: {offered.__name__}", ":members:"))
        elif inspect.isclass(offered):
            parts.append(directive(name, f"autoclass:: syncer.{name}", ":members:", ":show-inheritance:"))
        elif callable(offered):
            parts.append(directive(name, f"autofunction:: syncer.{name}"))
    parts.append(directive("Errors", "automodule:: syncer.errors", ":no-members:"))
    return "\n".join(parts)


def directive(title: str, first: str, *options: str) -> str:
    """A heading, and below it a directive of reStructuredText."""
    lines = "\n   ".join((f".. {first}", *options))
    return f"### {title}\n\n```{{eval-rst}}\n{lines}\n```\n"


def complete(_: Sphinx, page: str, text: list[str]) -> None:
    """Add to a page what Sphinx alone wants there."""
    if page == root_doc:
        text[0] += "\n" + toctrees(text[0])
    elif page == "docs/library":
        text[0] += reference()


def setup(app: Sphinx) -> dict[str, bool]:
    """Have Sphinx call ``complete`` for each page."""
    app.connect("source-read", complete)
    return {"parallel_read_safe": True}
