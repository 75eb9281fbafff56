"""How Sphinx makes the documentation site: ``make docs``, or ``sphinx-build -W docs build/docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

from strfcube import __version__

project = "strfcube"
author = "The strfcube developers"
copyright = "the strfcube developers. BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# The notebooks are stored with their outputs; they run in the tests, not here.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"
smartquotes = False  # "--drc" is an option, not a dash
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types in words, with shapes and units
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "sphinx_book_theme"
html_title = "strfcube"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field stands in the sidebar
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_copy_empty_lines = False


def setup(app):
    """Have the pages written that stand elsewhere already: data sets, changes, notebooks."""
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir)), priority=100)
