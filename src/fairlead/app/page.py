"""The shell of every page: one file, pictures inside, nothing fetched. Imports no torch.

A page is a template in `templates/` and the values that it shows. Jinja escapes the values, so nothing that a user
typed can become markup. `templates/style.css` is the only stylesheet.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fairlead.app.words import count, duration, number

MARK = "<!-- fairlead page -->"
"""Second line of every page: what may be overwritten."""


@dataclass(frozen=True)
class Picture:
    """An image inside a page."""

    source: str
    """A data: address; empty if the file is missing."""
    width: int = 0
    height: int = 0


def picture(path: Path, side: int) -> Picture:
    """The file itself when no side is longer than `side`, else a smaller JPEG of it."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            kind = "png"
            if max(size) > side:
                small = image.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.save(buffer, "JPEG", quality=88)
                data = buffer.getvalue()
                kind = "jpeg"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Picture("")
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", *size)


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("fairlead.app"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "count": count, "duration": duration}
    return made


def fill(template: str, **values: Any) -> str:
    """A template with its values."""
    return _templates().get_template(template).render(**values)


def page(template: str, title: str, **values: Any) -> bytes:
    """A whole file."""
    folder = files("fairlead.app") / "templates"
    style, script = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("style.css", "page.js"))
    return fill(template, title=title, mark=Markup(MARK), style=style, script=script, **values).encode()


def is_ours(path: Path) -> bool:
    """True for a page written here."""
    try:
        with open(path, "rb") as handle:
            return MARK.encode() in handle.read(200)
    except OSError:
        return False
