"""The picture at the top of the README: first try, the whole search, winner.

python -m experiments.hero run [--prompt "..."] [--reward FORMULA] [--seed 3]
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import fairlead
from experiments import common

BIG, SMALL, GAP, TOP = 288, 66, 4, 34
INK = (32, 36, 44)
FAINT = (120, 126, 138)
GOLD = (222, 150, 20)
PAPER = (255, 255, 255)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, arrange, write."""
    p = common.parser(__doc__, Path("docs/hero.png").resolve())
    p.add_argument("--prompt", default="a photo of a red apple left of a dog")
    p.add_argument("--reward", default="clip_score")
    p.add_argument("--seed", type=int, default=0)
    o = common.parse(p, argv)
    if o.word == "run":
        make(o, {"nfe": 80} if o.quick else {"nfe": 640})
    print(o.out)


def make(chosen: argparse.Namespace, budget: dict[str, float]) -> None:
    """The picture."""
    result = fairlead.run(chosen.prompt, reward=chosen.reward, budget=budget, seed=chosen.seed)
    folder = Path(result.folder)
    rows = sorted(_rows(result), key=lambda row: row["candidate"])
    columns = 8
    middle = columns * (SMALL + GAP) - GAP
    width = 2 * BIG + middle + 4 * 24
    height = TOP + BIG + 30
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(17)
    small = ImageFont.load_default(13)
    x = 24
    draw.text((x, 8), "first try", INK, font)
    sheet.paste(_up(result.baseline.image, BIG), (x, TOP))
    draw.text((x, TOP + BIG + 8), f"{chosen.reward} {result.baseline.reward:.1f}", FAINT, small)
    x += BIG + 24
    draw.text((x, 8), f"\u201c{chosen.prompt}\u201d: {len(rows)} candidates", INK, font)
    for i, row in enumerate(rows):
        picture = Image.open(io.BytesIO((folder / row["image"]).read_bytes())).convert("RGB")
        at = (x + (i % columns) * (SMALL + GAP), TOP + (i // columns) * (SMALL + GAP + 3))
        sheet.paste(_up(picture, SMALL), at)
        if row["candidate"] == result.best.index:
            draw.rectangle([at[0] - 2, at[1] - 2, at[0] + SMALL + 1, at[1] + SMALL + 1], outline=GOLD, width=3)
    x += middle + 24
    draw.text((x, 8), "winner", GOLD, font)
    sheet.paste(_up(result.best.image, BIG), (x, TOP))
    draw.text((x, TOP + BIG + 8), f"{chosen.reward} {result.best.reward:.1f}", FAINT, small)
    sheet.save(chosen.out, optimize=True)
    print(f"{chosen.out}: {result.baseline.reward:.2f} -> {result.best.reward:.2f}")


def _rows(result: fairlead.Result) -> list[dict]:
    table = result.candidates
    return table if isinstance(table, list) else table.to_dict("records")


def _up(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
