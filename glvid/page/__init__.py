"""`glvid report`: a run as one HTML file that needs nothing but a browser.

marks: escaping · plots: inline SVG · pictures: data: URIs · style: CSS and script · document: the page itself
"""

from glvid.page.document import BEGINNING, write_page

__all__ = ["BEGINNING", "write_page"]
