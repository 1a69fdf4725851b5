"""Questions to a person while a picture is sampled, about previews that are recorded with a numbered sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from fairlead.core.people import Ask, Question
from fairlead.core.reward import HumanReward, Reward
from fairlead.run import png
from fairlead.run.question_store import sheet_of
from fairlead.run.rows import picture_name
from fairlead.run.store import write_atomically

COLUMNS, TILE = 4, 200
"""Of the sheet; tiles in pixels."""


class PreviewQuestions:
    """The terms that a person gives to previews. `writes` is off where a record is only read (replay)."""

    def __init__(self, folder: Path, ask: Ask, writes: bool = True) -> None:
        self._folder = Path(folder)
        self._ask = ask
        self._writes = writes

    def __call__(self, reward: Reward, images: Tensor, terms: Mapping[str, Tensor], prompt: str) -> Tensor:
        """Images [K, 3, H, W] in [0, 1] that compete, the terms [K] known -> totals [K]; `Pending` or `Enough`."""
        shots = [png.encode(png.pixels(image), {}, prompt) for image in images]
        names = [picture_name(shot) for shot in shots]

        def ask(question: Question) -> tuple[int, ...]:
            if self._writes:
                self._keep(question, names, shots)
            return self._ask(question)

        rows = {label: values.tolist() for label, values in terms.items()}
        for label, leaf in zip(reward.labels(), reward.leaves(), strict=True):
            if isinstance(leaf, HumanReward):
                rows[label] = leaf.choose(names, prompt, ask)
        columns = zip(*rows.values(), strict=True)
        return reward.from_terms([dict(zip(rows, values, strict=True)) for values in columns])

    def _keep(self, question: Question, names: Sequence[str], shots: Sequence[bytes]) -> None:
        images = self._folder / "images"
        files = [(images / f"{name}.png", shot) for name, shot in zip(names, shots, strict=True)]
        files.append((sheet_of(self._folder, question), contact_sheet(shots)))
        for path, data in files:
            if not path.exists():
                write_atomically(path, data, durable=False)


def contact_sheet(shots: Sequence[bytes]) -> bytes:
    """PNG pictures -> one PNG, numbered from 1 in rows of four."""
    rows = -(-len(shots) // COLUMNS)
    sheet = Image.new("RGB", (min(len(shots), COLUMNS) * TILE, rows * TILE), "white")
    draw = ImageDraw.Draw(sheet)
    for i, shot in enumerate(shots):
        x = i % COLUMNS * TILE
        y = i // COLUMNS * TILE
        with Image.open(io.BytesIO(shot)) as image:
            scale = (TILE - 8) / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            sheet.paste(image.convert("RGB").resize(size, how), (x + 4, y + 4))
        draw.rectangle((x, y, x + 14 + 12 * len(str(i + 1)), y + 26), fill="black")
        draw.text((x + 7, y + 2), str(i + 1), fill="white", font_size=20)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
