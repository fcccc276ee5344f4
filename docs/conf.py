"""How Sphinx builds the documentation: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reference_pages

import experiment_manager

project = "Experiment Manager"
release = experiment_manager.__version__
html_title = f"{project} {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
html_theme = "furo"
exclude_patterns = ["build"]
default_role = "code"
nitpicky = False

myst_heading_anchors = 3
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False

reference_pages.write(Path(__file__).parent / "reference")
