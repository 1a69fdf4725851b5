"""Pictures as they leave the server: encoded again, so that no recipe, path or key is in them. No torch."""

from __future__ import annotations

import base64
import io

TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


def encode(png: bytes, format: str, compression: int) -> tuple[bytes, tuple[int, int]]:
    """The picture of a record in another format without any metadata, and its size. Equal pictures give equal bytes."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        pixels = opened.convert("RGB")
    bare = Image.frombytes("RGB", pixels.size, pixels.tobytes())
    out = io.BytesIO()
    if format == "png":
        bare.save(out, "PNG")
    else:
        bare.save(out, format.upper(), quality=compression)
    return out.getvalue(), bare.size


def as_text(data: bytes) -> str:
    """The base64 of a picture."""
    return base64.b64encode(data).decode()
