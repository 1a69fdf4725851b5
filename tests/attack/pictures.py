"""Pictures whose metadata, size or end is wrong; most of them can still be opened."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from tests.attack.target import Refused, Target, command
from tests.attack.words import broken, flipped, text, value

from fairlead.core.errors import FairleadError
from fairlead.run import engine, scoring
from fairlead.run.view import View
from fairlead.testing.runs import small_spec

HEAD = b"\x89PNG\r\n\x1a\n"
DEEP = "[" * 100_000
RECIPE: dict[str, Any] = {
    "fairlead": "0.2",
    "run": "0" * 32,
    "candidate": 3,
    "reward": 0.5,
    "terms": {"brightness": 0.5},
    "spec": json.loads(small_spec().json()),
}
MODES = ["RGB", "RGB", "L", "LA", "RGBA", "P", "1", "I;16", "I", "CMYK", "F"]


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def note(key: str, words: str, draw: random.Random) -> bytes:
    """A text in one of the three ways of PNG."""
    raw = words.encode(errors="surrogatepass")
    name = key.encode()
    kinds = [
        chunk(b"iTXt", name + b"\0\0\0\0\0" + raw),
        chunk(b"iTXt", name + b"\0\1\0\0\0" + zlib.compress(raw)),
        chunk(b"tEXt", name + b"\0" + raw),
        chunk(b"zTXt", name + b"\0\0" + zlib.compress(raw)),
    ]
    return draw.choice([kinds[0], *kinds])


def told(draw: random.Random) -> str:
    """A recipe with something wrong in it."""
    if draw.random() < 0.1:
        return draw.choice([DEEP, '{"spec": {"prompt": ' + DEEP, '{"spec": ' * 2000, "", "x", text(draw)])
    data = broken(RECIPE, draw)
    if draw.random() < 0.2:
        data = {"spec": {"prompt": value(draw)}, "reward": value(draw)}
    words = json.dumps(data)
    return words[: draw.randrange(len(words) + 1)] if draw.random() < 0.1 else words


def notes(draw: random.Random) -> list[bytes]:
    """Chunks between the head and the pixels."""
    some: list[Callable[[], bytes]] = [
        lambda: note("fairlead", told(draw), draw),
        lambda: note("parameters", text(draw) + "\nSteps: 4" + text(draw), draw),
        lambda: chunk(b"eXIf", draw.choice([b"MM\0*\0\0\0\x08", b"II*\0", b"Exif\0\0"]) + draw.randbytes(40)),
        lambda: chunk(b"tRNS", draw.randbytes(draw.choice([0, 1, 2, 6, 300]))),
        lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(draw.randbytes(50))),
        lambda: chunk(b"pHYs", draw.randbytes(draw.choice([0, 9]))),
        lambda: chunk(b"gAMA", draw.randbytes(4)),
        lambda: chunk(b"acTL", struct.pack(">II", draw.choice([0, 1, 2, 2**31]), 0)),
        lambda: chunk(b"zTXt", b"fairlead\0\0" + zlib.compress(bytes(draw.choice([10, 10**7])))),
    ]
    return [draw.choice([some[0], some[0], some[0], some[1], *some])() for _ in range(draw.choice([1, 1, 2]))]


def loadable(draw: random.Random) -> bytes:
    """A sound PNG with odd chunks."""
    image = Image.new(draw.choice(MODES), draw.choice([(1, 1), (8, 8), (3, 17)]))
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG")
    except OSError:
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    end = len(HEAD) + 25
    return data[:end] + b"".join(notes(draw)) + data[end:]


def picture(draw: random.Random) -> bytes:
    """A picture with something wrong."""
    kind = draw.random()
    if kind < 0.65:
        return loadable(draw)
    if kind < 0.75:
        data = loadable(draw)
        return flipped(data, draw) if draw.random() < 0.5 else data[: draw.randrange(len(data))]
    if kind < 0.88:
        buffer = io.BytesIO()
        form = draw.choice(["JPEG", "WEBP", "GIF", "BMP", "TIFF", "PNG"])
        Image.new(draw.choice(["RGB", "L"]), (8, 8)).save(buffer, form)
        return flipped(buffer.getvalue(), draw, 20)
    size = draw.choice([(60000, 60000), (0, 0), (2**31 - 1, 1), (1, 2**31), (20000, 9000), (8, 8)])
    depth = draw.choice([8, 8, 16, 1, 99])
    head = struct.pack(">IIBBBBB", *size, depth, draw.choice([0, 2, 3, 6, 9]), 0, 0, draw.choice([0, 1]))
    body = chunk(b"IDAT", zlib.compress(bytes((8 * 3 + 1) * 8)))
    return HEAD + chunk(b"IHDR", head) + b"".join(notes(draw)) + body + chunk(b"IEND", b"")


def read_bank(path: Path) -> None:
    """As the report of a run reads the picture of a steering's bank."""
    view = View.read(Path("run"))
    shutil.copyfile(path, Path("run") / "bank.png")
    _ = view.bank


READS: dict[str, Callable[[Path], Any]] = {
    "written": scoring.written,
    "load": lambda path: command(["score", str(path), "--reward", "brightness"]),
    "score": lambda path: command(["score", str(path), "--reward", "brightness + 0.1*jpeg_size", "--json"]),
    "bank": read_bank,
    "report": lambda path: (shutil.copyfile(path, Path("run") / "best.png"), command(["report", "run"])),
    "names": lambda path: command(["score", str(path), "--reward", "brightness", "--prompts", "prompts.txt"]),
}


def pictures(folder: Path) -> Target:
    """Everything that opens a picture."""
    engine.start(small_spec(), folder / "source").close()
    (folder / "prompts.txt").write_text("a dog\n")

    def make(draw: random.Random) -> list[Any]:
        ending = draw.choice(["png", "png", "png", "jpg", "webp"])
        return [draw.choice(list(READS)), ending, picture(draw)]

    def run(what: list[Any]) -> None:
        read, ending, data = what
        os.chdir(folder)
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("source", "run")
        path = Path(f"one.{ending}")
        path.write_bytes(data)
        unreadable: Exception | None = None
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:  # whatever Pillow says: what fairlead makes of it is tried below
            unreadable = error
        READS[read](path)
        if unreadable is not None:
            raise Refused(FairleadError(f"{path} is no picture: {unreadable}"))

    return Target(make, run, ("is no picture", "cannot identify"))
