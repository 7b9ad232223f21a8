"""Looks (page.css) and manners (page.js) of the page.

Both are named by their hash in its security policy, so nothing else can take effect in it.
"""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

CSS, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


def policy() -> str:
    """The page's Content-Security-Policy: its own style and script, pictures and film inside it, no network at all."""
    style, script = (b64encode(sha256(source.encode()).digest()).decode() for source in (CSS, SCRIPT))
    allowed = f"style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; media-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
