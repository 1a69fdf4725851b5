"""The files of the page, and pictures made smaller for it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

THUMB = 320
"""Longest side of a picture in the gallery."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def static_files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name, read once; the stylesheet is the report's."""
    root = Path(str(files("fairlead.app")))
    found = {}
    for path in sorted((root / "studio" / "static").rglob("*")):
        if path.suffix in TYPES:
            name = path.relative_to(root / "studio" / "static").as_posix()
            found[name] = (path.read_bytes(), TYPES[path.suffix])
    found["style.css"] = ((root / "templates" / "style.css").read_bytes(), TYPES[".css"])
    page, kind = found["index.html"]
    found["index.html"] = (page.replace(b"<script", _preloads(found) + b"<script", 1), kind)
    return found


def _preloads(names: Iterable[str]) -> bytes:
    """Tells the browser every module at once: it would find those that modules import one level after the other."""
    modules = [name for name in names if name.endswith(".js") and name != "main.js"]
    return "".join(f'<link rel="modulepreload" href="/static/{name}">\n' for name in modules).encode()


def smaller(data: bytes) -> bytes | None:
    """A WebP with no side longer than a thumbnail's; None where the picture is small already."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if max(image.size) <= THUMB:
            return None
        small = image.convert("RGB")
        small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88)
    return buffer.getvalue()
