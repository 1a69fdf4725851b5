"""The shell of every page: one file, pictures inside, nothing fetched. Imports no torch."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from fairlead.app.words import number

MARK = "<!-- fairlead page -->"
"""Second line of every page: what may be overwritten."""


@dataclass(frozen=True)
class Picture:
    """An image ready to stand in a page."""

    source: str
    """data: address, empty if the file is missing"""
    size: tuple[int, int]

    def tag(self, alt: str) -> str:
        """An `<img>` that enlarges on a click."""
        if not self.source:
            return f'<p class="missing">{text(alt)}: the picture is missing.</p>'
        width, height = self.size
        return f'<img src="{self.source}" alt="{text(alt)}" width="{width}" height="{height}" data-zoom loading="lazy">'


def picture(path: Path, side: int) -> Picture:
    """The file itself when no side is longer than `side`, else a smaller JPEG of it."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size, kind = image.size, "png"
            if max(size) > side:
                small = image.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.save(buffer, "JPEG", quality=88)
                data, kind = buffer.getvalue(), "jpeg"
    except (OSError, ValueError):
        return Picture("", (0, 0))
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", size)


def text(value: object) -> str:
    """Anything as text of a page, attributes included."""
    return escape(str(value), quote=True)


def change(value: float) -> str:
    """A table cell for a difference, coloured by its sign."""
    css = "up" if value > 0 else "down" if value < 0 else ""
    return f'<td class="{css}">{number(value, sign=True)}</td>'


def pairs(items: list[tuple[str, str]]) -> str:
    """A table of names and values."""
    body = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in items)
    return f'<div class="card scroll"><table class="pairs"><tbody>{body}</tbody></table></div>'


def page(title: str, body: str) -> bytes:
    """The whole file."""
    here = files("fairlead.app")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        f"<!doctype html>\n{MARK}\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="generator" content="fairlead">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body><main>{body}</main>'
        f'<dialog><img alt=""><p></p></dialog><script>{script}</script></body></html>\n'
    ).encode()


def is_ours(path: Path) -> bool:
    """True for a page written here."""
    try:
        with open(path, "rb") as handle:
            return MARK.encode() in handle.read(200)
    except OSError:
        return False
