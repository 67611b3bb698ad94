"""The pages that the server shows: files, no framework, nothing from elsewhere.

A browser is told so: it runs the script and uses the style that stand in the page, known by their hashes, loads nothing
from other servers, tells none where it came from, and shows the page in no frame.
"""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from aiohttp import web

INDEX = Path(__file__).with_name("index.html")
DOCS = Path(__file__).with_name("docs.html")


def shown(page: Path) -> web.FileResponse:
    """One of the pages as an answer."""
    return web.FileResponse(page, headers=_HEADERS[page])


def _headers(page: Path) -> dict[str, str]:
    content = page.read_bytes()
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(content, b"script"),
        "style-src": _hashes(content, b"style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "media-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _hashes(content: bytes, tag: bytes) -> str:
    """The sources of a page's elements of one kind, as a policy names them."""
    texts = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(text).digest()).decode()}'" for text in texts)


_HEADERS = {page: _headers(page) for page in (INDEX, DOCS)}
