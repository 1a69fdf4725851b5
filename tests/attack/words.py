"""Values that nobody means, and small changes of values that somebody meant."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

ATOMS = (
    """
0|1|-1|2|16|0.5|1e999|-1e999|nan|1_0|0x10|True|None|...|1j|'x'|b'x'|{[]:1}|{1:2}|{'a':1}|[1]|(1,)|{1}|''|''' '''
\\ud800|é|𝔘|../../x|/dev/null|/proc/self/mem|-|--|=|a=b|.|a.b=c|%s%n|{}|lambda: 0|__import__('os')|1 if 1 else 2
[i for i in 1]|f'{1}'|*a|**a|a:=1|await x|brightness|clip_score|detector|brightness, jpeg_size|x.py:f
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
ATOMS += [
    "9" * 310,
    "9" * 5000,
    "-" * 4000 + "1",
    "[" * 300 + "]" * 300,
    "x" * 3000,
    "\ud800",
    "\0",
    "\n",
    "",
    " ",
    "|",
]
NEAR = [0, 1, -1, 2, 3, 4.5, 1e-300, 1e300, 10**12, 2**53, 2**63 - 1, 2**63, -(2**63), 10**400]
ODD = [float("inf"), float("-inf"), float("nan"), -0.0]


def text(draw: random.Random) -> str:
    """A word that nobody means; never an absolute path that could be written."""
    if draw.random() < 0.7:
        return draw.choice(ATOMS)
    letters = [chr(draw.choice([draw.randrange(32, 127), draw.randrange(0x2000)])) for _ in range(draw.randrange(20))]
    return "".join(letters).lstrip("/~")


def value(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.choice(NEAR),
        lambda: draw.choice(ODD),
        lambda: text(draw),
    ]
    if depth < 3:
        kinds += [
            lambda: [value(draw, depth + 1) for _ in range(draw.randrange(3))],
            lambda: {text(draw): value(draw, depth + 1) for _ in range(draw.randrange(3))},
            lambda: {"name": value(draw, depth + 1), "settings": value(draw, depth + 1)},
            lambda: {draw.choice(["+", "*", "min", "veto", ">"]): value(draw, depth + 1)},
        ]
    return draw.choice(kinds)()


def near(data: Any, draw: random.Random) -> Any:
    """Another value of the same kind, so that the first check of its kind lets it pass."""
    if isinstance(data, bool):
        return not data
    if isinstance(data, int | float) and abs(data) < 1e300:
        return draw.choice([data + 1, -data, data / 2, data * 1000, *NEAR, *ODD])
    if isinstance(data, bytes):
        return draw.choice([flipped(data, draw), data[: draw.randrange(len(data) + 1)], data + data])
    if isinstance(data, str):
        at = draw.randrange(len(data) + 1)
        return draw.choice([data[:at], data[at:], data[:at] + text(draw) + data[at:], data + data, data.upper(), ""])
    if isinstance(data, list):
        return draw.choice([[], data + data, data[1:], data[::-1], [*data, value(draw)]])
    if isinstance(data, dict):
        return draw.choice([{}, {**data, text(draw): value(draw)}, {key: value(draw) for key in data}])
    return value(draw)


def broken(data: Any, draw: random.Random) -> Any:
    """The data with one thing inside it changed, exchanged, added or missing."""
    if isinstance(data, dict) and data and draw.random() < 0.9:
        key = draw.choice(list(data))
        if draw.random() < 0.15:
            return {name: inner for name, inner in data.items() if name != key}
        if draw.random() < 0.05:
            return {**data, key: data[draw.choice(list(data))]}
        return {**data, key: broken(data[key], draw)}
    if isinstance(data, list) and data and draw.random() < 0.9:
        at = draw.randrange(len(data))
        return [*data[:at], broken(data[at], draw), *data[at + 1 :]]
    return near(data, draw) if draw.random() < 0.6 else value(draw)


def flipped(data: bytes, draw: random.Random, most: int = 8) -> bytes:
    """The bytes with up to `most` bits changed."""
    out = bytearray(data)
    for _ in range(draw.randrange(1, most + 1) if data else 0):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)
