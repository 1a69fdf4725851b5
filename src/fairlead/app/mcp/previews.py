"""Small pictures for answers that have a limit in bytes. No torch."""

from __future__ import annotations

import io

SIDE = 512
"""Longest side of a preview, in pixels."""
MOST = 4
"""Previews of one answer."""
BYTES = 120_000
"""Bytes of a preview: four of them in base64 stay below the 1 MiB that a client reads at once."""
WHOLE = 700_000
"""Bytes of a picture that is read by its address."""
QUALITIES = (90, 80, 60, 40, 20)


def preview(png: bytes) -> bytes:
    """A picture as a small WebP."""
    return fitted(png, SIDE, BYTES)


def fitted(png: bytes, side: int, most: int) -> bytes:
    """A picture as WebP without its recipe: at most `side` pixels wide and high, at most `most` bytes."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((side, side))
    while True:
        bare = Image.frombytes("RGB", image.size, image.tobytes())
        for quality in QUALITIES:
            out = io.BytesIO()
            bare.save(out, "WEBP", quality=quality)
            if out.tell() <= most:
                return out.getvalue()
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)))
