"""How Sphinx builds these pages."""

from importlib import metadata

project = "basecache"
copyright = "the basecache authors, Apache-2.0"  # noqa: A001
release = metadata.version("basecache")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"basecache {release}"
