"""Cut the glyphs of the world out of an emoji font, once: ``python glyphs.py FONT.ttf``.

Writes ``glyphs.png`` (RGBA, cells of ``--cell`` pixels, 8 columns) and ``glyphs.json`` (class names in sheet order)
into the assets of ``fairlead.pocket``.  Everything afterwards needs only those two files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ASSETS = Path(__file__).parents[2] / "src" / "fairlead" / "pocket" / "assets"
COLUMNS, STRIKE = 8, 109

CODEPOINTS: dict[str, str] = {
    "bicycle": "1F6B2",
    "car": "1F697",
    "motorcycle": "1F3CD",
    "airplane": "2708",
    "bus": "1F68C",
    "train": "1F686",
    "truck": "1F69A",
    "boat": "26F5",
    "traffic light": "1F6A6",
    "stop sign": "1F6D1",
    "bird": "1F426",
    "cat": "1F408",
    "dog": "1F415",
    "horse": "1F40E",
    "sheep": "1F411",
    "cow": "1F404",
    "elephant": "1F418",
    "bear": "1F43B",
    "zebra": "1F993",
    "giraffe": "1F992",
    "backpack": "1F392",
    "umbrella": "2602",
    "handbag": "1F45C",
    "suitcase": "1F9F3",
    "kite": "1FA81",
    "skateboard": "1F6F9",
    "wine glass": "1F377",
    "cup": "2615",
    "spoon": "1F944",
    "banana": "1F34C",
    "apple": "1F34E",
    "orange": "1F34A",
    "broccoli": "1F966",
    "carrot": "1F955",
    "hot dog": "1F32D",
    "pizza": "1F355",
    "donut": "1F369",
    "cake": "1F370",
    "chair": "1FA91",
    "couch": "1F6CB",
    "toilet": "1F6BD",
    "tv": "1F4FA",
    "laptop": "1F4BB",
    "cell phone": "1F4F1",
    "book": "1F4D5",
    "clock": "1F552",
    "scissors": "2702",
    "teddy bear": "1F9F8",
}


def glyph(font: ImageFont.FreeTypeFont, character: str, cell: int) -> Image.Image:
    """One character, cropped to its ink, centred in a transparent square of side ``cell``."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 12), character, font=font, embedded_color=True)
    ink = canvas.crop(canvas.getbbox())
    side = max(ink.size)
    square = Image.new("RGBA", (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square.resize((cell, cell), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("font", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--cell", type=int, default=64, help="side of a cell in pixels; pocket2 has 120")
    arguments = parser.parse_args()
    cell: int = arguments.cell
    font = ImageFont.truetype(str(arguments.font), STRIKE)
    rows = -(-len(CODEPOINTS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * cell, rows * cell))
    for index, code in enumerate(CODEPOINTS.values()):
        place = (index % COLUMNS * cell, index // COLUMNS * cell)
        sheet.paste(glyph(font, chr(int(code, 16)), cell), place)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out / "glyphs.png", optimize=True)
    index_file = {"cell": cell, "columns": COLUMNS, "names": list(CODEPOINTS)}
    (arguments.out / "glyphs.json").write_text(json.dumps(index_file, indent=1) + "\n")


if __name__ == "__main__":
    main()
