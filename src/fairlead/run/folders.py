"""Names of new folders. Imports no torch."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path


def slug(text: str, longest: int = 40) -> str:
    """Letters, digits and hyphens of a prompt, for a folder name."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(words) > longest:
        words = words[:longest].rsplit("-", 1)[0] if "-" in words[:longest] else words[:longest]
    return words or "run"


def new_folder(prompt: str, now: datetime, root: Path = Path("runs")) -> Path:
    """A folder under `root` that does not exist yet, named by time and prompt."""
    name = f"{now:%Y%m%d-%H%M%S}-{slug(prompt)}"
    folder = root / name
    again = 2
    while folder.exists():
        folder, again = root / f"{name}-{again}", again + 1
    return folder
