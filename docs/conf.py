"""How Sphinx builds these pages. It needs no network: references outside stargate stay plain."""

from importlib.metadata import version as version_of

project = "stargate"
author = "The stargate authors"
copyright = "2011-2026, The stargate authors"
release = version_of("stargate")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"

# The dotted names of other packages: without intersphinx there is nothing to link them to.
nitpick_ignore_regex = [("py:.*", r"(?!stargate\.)[a-z_]\w*(\.\w+)+")]

html_theme = "furo"
html_title = f"stargate {release}"
