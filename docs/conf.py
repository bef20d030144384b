"""The documentation site, as Sphinx reads it: `python -m nox -s docs`.

Invariant: the pages are the repository's own Markdown files, with links that also work where they lie. So the source
folder is the repository itself, and README.md, ARCHITECTURE.md and CONTRIBUTING.md are pages without being copied.
"""

project = "nemotron4"
extensions = ["myst_parser", "sphinx_copybutton"]
html_theme = "furo"
html_title = "nemotron4"
html_extra_path = ["_root"]  # index.html at the top, which leads to docs/index.html

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "launchers/README.md", "packages/data/src/nemotron4_data/sample/ATTRIBUTION.md"]
# Folders that hold no pages; what git ignores may be large.
exclude_patterns = [".*", "build", "conf", "data", "runs", "tests", "tools", "docs/_root"]

myst_heading_anchors = 3  # `page.md#heading` links work as they do in a repository browser, and are checked
