"""`glvid view`: a run in the browser. server.py answers, content.py makes what is asked for, page/ is the page.

The page is ours down to the last line: no library, no build step, nothing from another machine, so that it works
offline and comes quickly through an ssh tunnel.
"""

from glvid.viewer.server import PORT, Viewer, open_server

__all__ = ["PORT", "Viewer", "open_server"]
