"""A memory as a page to read: one HTML file that needs nothing else, or Markdown.

    write("report.html", page_of(memory, "facts.safetensors", report))

Every text that comes from a memory or a model is shown as text, whatever it holds.
"""

from memoir_edge.report.page import Page, page_of
from memoir_edge.report.render import render, suffix_of, write

__all__ = ["Page", "page_of", "render", "suffix_of", "write"]
