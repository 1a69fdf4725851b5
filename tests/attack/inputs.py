"""Generators of inputs that nobody means, each from a seed and a number."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.app import cli
from fairlead.app.report import write_report
from fairlead.bench import plan
from fairlead.core.errors import FairleadError
from fairlead.run import engine, rows, scoring
from fairlead.run.formula import parse_part, parse_reward, reward_text
from fairlead.run.spec import Spec, make_spec, parse_settings
from fairlead.run.store import DATABASE
from fairlead.run.view import View
from fairlead.testing.runs import small_spec


class Failed(BaseException):
    """An attack that succeeded."""


@dataclass(frozen=True)
class Attack:
    """One input, and what is done with it. `run` raises `Failed` or anything that is no sentence."""

    what: Any
    run: Callable[[], None]


ATOMS = [
    "0",
    "1",
    "-1",
    "2",
    "16",
    "0.5",
    "1e999",
    "-1e999",
    "nan",
    "9" * 310,
    "9" * 5000,
    "-" * 4000 + "1",
    "1_0",
    "0x10",
    "True",
    "None",
    "...",
    "1j",
    "'x'",
    "b'x'",
    "{[]:1}",
    "{1:2}",
    "{'a':1}",
    "[1]",
    "(1,)",
    "{1}",
    "[" * 300 + "]" * 300,
    "''",
    "''' '''",
    "\\ud800",
    "\ud800",
    "\0",
    "\n",
    "é",
    "𝔘",
    "x" * 3000,
    "../../x",
    "/dev/null",
    "/proc/self/mem",
    "-",
    "--",
    "=",
    "a=b",
    ".",
    "a.b=c",
    "%s%n",
    "{}",
    "lambda: 0",
    "__import__('os')",
    "1 if 1 else 2",
    "[i for i in 1]",
    "f'{1}'",
    "*a",
    "**a",
    "a:=1",
    "await x",
    "brightness",
    "clip_score",
    "brightness, jpeg_size",
    "http://x",
    "x.py:f",
]
NAMES = ["brightness", "jpeg_size", "clip_score", "detector", "aesthetic_clip", "http", "judge", "file", "human", "x"]
OPERATIONS = ["{} + {}", "{} - {}", "{} * {}", "{} / {}", "-{}", "({})", "min({}, {})", "rank_mean({}, {})", "{} > {}"]
OPERATIONS += [
    "veto({}, {} > 0.5)",
    "zscore({}, mean={}, std={})",
    "{}(a={})",
    "zscore({}, stats={})",
    "{}[{}]",
    "{}.{}",
]
OPTIONS = [
    "--model",
    "--reward",
    "--watch",
    "--space",
    "--search",
    "--steer",
    "--intervene",
    "--set",
    "--budget",
    "--sampler",
    "--steps",
    "--group",
    "--batch",
    "--seed",
    "--draft",
    "--finals",
    "--height",
    "--width",
    "--guidance-scale",
    "--negative-prompt",
    "--dtype",
    "--variant",
    "--revision",
    "--keep",
    "--out",
    "--json",
    "--dry-run",
    "--help",
    "--x",
]
USUAL = {
    "--model": ["mixture", "pocket", "pocket-turbo", "x", "./x"],
    "--reward": ["brightness", "jpeg_size", "min(brightness, jpeg_size)"],
    "--search": ["best_of", "zero_order", "sep_cma", "bayes_opt", "adam", "evolution(n=1)"],
    "--steer": ["demon", "svdd", "lidar", "paths(children=2)", "feynman_kac"],
    "--intervene": ["repulsion", "cads"],
    "--space": ["noise", "embedding", "product"],
    "--set": ["best_of.n=4", "mixture.x=1", "model.height=64", "demon.k=3"],
    "--budget": ["nfe=8", "seconds=1", "backwards=1", "dollars=1", "nfe=8,seconds=1", "nfe=1e308", "nfe=20000"],
    "--sampler": ["euler", "heun", "ancestral"],
}
COMMANDS = [
    "run",
    "price",
    "list",
    "resume",
    "replay",
    "report",
    "answer",
    "score",
    "keep",
    "compare",
    "doctor",
    "bench",
]


def text(draw: random.Random) -> str:
    """A word that nobody means."""
    if draw.random() < 0.7:
        return draw.choice(ATOMS)
    return "".join(
        chr(draw.choice([draw.randrange(32, 127), draw.randrange(0x2000)])) for _ in range(draw.randrange(20))
    )


def formula(draw: random.Random, depth: int = 0) -> str:
    """A formula, or nearly one."""
    if depth > 4 or draw.random() < 0.3:
        return draw.choice(NAMES) if draw.random() < 0.6 else text(draw)
    shape = draw.choice(OPERATIONS)
    return shape.format(*(formula(draw, depth + 1) for _ in range(shape.count("{}"))))


def value(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.choice([0, 1, -1, 10**400, 2**63, 2**64]),
        lambda: draw.choice([0.5, -1.0, float("inf"), float("nan")]),
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


def broken(data: Any, draw: random.Random) -> Any:
    """The value with something inside it changed or missing."""
    if isinstance(data, dict) and data and draw.random() < 0.85:
        key = draw.choice(list(data))
        if draw.random() < 0.25:
            return {k: v for k, v in data.items() if k != key}
        return {**data, key: broken(data[key], draw)}
    if isinstance(data, list) and data and draw.random() < 0.85:
        at = draw.randrange(len(data))
        return [*data[:at], broken(data[at], draw), *data[at + 1 :]]
    return value(draw)


def refusing(read: Callable[[], Any]) -> Callable[[], None]:
    """A call that may only succeed or raise one sentence."""

    def run() -> None:
        try:
            read()
        except FairleadError as error:
            if "\n" in str(error).strip() and len(str(error)) > 2000:
                raise Failed("a long error") from error

    return run


def command(line: list[str]) -> Callable[[], None]:
    """The command line, which may end in anything but 70."""

    def run() -> None:
        if cli.main(line) == 70:
            raise Failed("exit 70")

    return run


def commands(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Whole command lines."""

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} command {i}")
        name = draw.choice(COMMANDS) if draw.random() < 0.5 else draw.choice(["run", "price"])
        words = [name] if draw.random() < 0.98 else []
        for _ in range(draw.randrange(3)):
            words.append(text(draw) if draw.random() < 0.5 else "a red apple")
        for _ in range(draw.randrange(5)):
            option = draw.choice(OPTIONS)
            words.append(option)
            if option not in ("--json", "--dry-run", "--help") and draw.random() < 0.98:
                usual = USUAL.get(option, ["1", "2", "4"])
                words.append(
                    draw.choice(usual) if draw.random() < 0.6 else formula(draw) if draw.random() < 0.3 else text(draw)
                )
        if name in ("run", "bench", "compare", "doctor"):
            words += ["--dry-run"] if name == "run" else ["--help"]
        if name in ("run", "price") and "--model" not in words and draw.random() < 0.95:
            words += ["--model", "mixture"]
        return Attack(words, command(words))

    return make


def formulas(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Formulas: read, and what was read is written and read again."""

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} formula {i}")
        words = formula(draw)

        def read() -> None:
            tree = parse_reward(words)
            json.dumps(Spec("x", reward=tree)._data())
            reward_text(tree)

        return Attack(words, refusing(read))

    return make


def settings(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Settings of parts, and parts with settings."""

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} setting {i}")
        words = f"{draw.choice(['best_of.n', 'model.x', 'demon.k', text(draw)])}={text(draw)}"
        part = f"{draw.choice(['best_of', 'demon', text(draw)])}({draw.choice(['n', 'k', text(draw)])}={text(draw)})"

        def read() -> None:
            json.dumps(parse_settings([words])).encode()
            make_spec("x", model="mixture", search=parse_part(part, "searches")).json().encode()

        return Attack((words, part), refusing(read))

    return make


def specs(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Stored settings with something wrong in them."""
    good = [
        json.loads(small_spec(**w).json()) for w in ({}, {"draft": 2}, {"reward": "min(brightness, jpeg_size) + 1"})
    ]

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} spec {i}")
        data = broken(draw.choice(good), draw)
        words = json.dumps(data)
        if draw.random() < 0.1:
            words = words[: draw.randrange(len(words) + 1)]
        return Attack(words, refusing(lambda: (Spec.from_json(words).id(), Spec.from_json(words).limit)))

    return make


PLAN: dict[str, Any] = {
    "model": "mixture",
    "reward": "brightness",
    "watch": ["jpeg_size"],
    "budget": "nfe=40",
    "seeds": 2,
    "prompts": ["a", "b"],
    "steps": 4,
    "reference": "random",
    "diversity": [],
    "about": "x",
    "methods": {
        "random": {"search": "best_of"},
        "zero": {"search": "zero_order", "settings": {"zero_order": {"neighbours": 2}}},
    },
}


def plans(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Plans of comparisons, as data and as broken TOML."""

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} plan {i}")
        data = broken(broken(PLAN, draw), draw) if draw.random() < 0.3 else broken(PLAN, draw)
        if draw.random() < 0.1:
            words = 'model = "mixture"\n' + text(draw)
            return Attack(words, refusing(lambda: plan.parse(words, "x", folder)))
        return Attack(data, refusing(lambda: plan.make(data, "x", folder) if isinstance(data, dict) else None))

    return make


def stores(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Records with wrong values (checksums made again), missing fields, flipped bits, missing files."""
    source = folder / "source"
    if not source.exists():
        engine.start(small_spec(), source).close()

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} store {i}")
        target = folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        what = _damage(target, draw)
        index = str(draw.randrange(-1, 4))
        reads: list[Callable[[], Any]] = [
            lambda: View.read(target).trace(),
            lambda: write_report(target),
            lambda: engine.resume(target),
            command(["keep", str(target), "2", "--likeness", "pixels"]),
            command(["replay", str(target), index]),
            command(["report", str(target)]),
            command(["score", str(target), "--reward", "brightness"]),
        ]
        return Attack(what, refusing(draw.choice(reads)))

    return make


def _damage(target: Path, draw: random.Random) -> Any:
    kind = draw.choice(["value", "value", "value", "spec", "column", "bits", "file"])
    path = target / DATABASE
    if kind == "bits":
        data = bytearray(path.read_bytes())
        places = [draw.randrange(len(data)) for _ in range(draw.choice([1, 1, 8, 100]))]
        for place in places:
            data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        return kind, places[:8]
    if kind == "file":
        one = draw.choice(sorted(p for p in target.rglob("*") if p.is_file()))
        one.write_bytes(draw.choice([b"", b"x", one.read_bytes()[:100], picture(draw)]))
        if draw.random() < 0.4:
            one.unlink()
        return kind, one.name
    db = sqlite3.connect(path)
    rows.install(db)
    table = draw.choice(list(rows.SEALED))
    column = draw.choice(rows.SEALED[table].split(", "))
    what: Any = value(draw)
    try:
        if kind == "spec":
            what = json.dumps(broken(json.loads(db.execute("select spec from run").fetchone()[0]), draw))
            table, column = "run", "spec"
            db.execute("update run set spec=?", (what,))
        elif kind == "column":
            db.execute(f"alter table {table} drop column {column}")
        else:
            stored = json.dumps(what) if isinstance(what, dict | list) or draw.random() < 0.3 else what
            db.execute(f"update {table} set {column}=?", (stored,))
        for name in rows.SEALED:
            rows.seal(db, name)
        db.commit()
    except (sqlite3.Error, OverflowError, UnicodeEncodeError):
        pass
    finally:
        db.close()
    return kind, table, column, what


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def picture(draw: random.Random) -> bytes:
    """A PNG with something wrong: its size, its metadata, its end."""
    size = draw.choice([(1, 1), (8, 8), (60000, 60000), (0, 0), (2**31 - 1, 1), (1, 2**31)])
    head = struct.pack(">IIBBBBB", *size, draw.choice([8, 8, 8, 16, 1, 99]), draw.choice([0, 2, 2, 3, 6, 9]), 0, 0, 0)
    deep = "[" * 100_000
    told = draw.choice(
        [deep, json.dumps(value(draw)), json.dumps({"spec": value(draw)}), '{"spec": {"prompt": ' + deep, "x", ""]
    )
    raw = told.encode(errors="surrogatepass")
    notes = [
        chunk(b"iTXt", b"fairlead\0\0\0\0\0" + raw),
        chunk(b"tEXt", b"parameters\0" + raw),
        chunk(b"zTXt", b"fairlead\0\0" + zlib.compress(bytes(draw.choice([10, 10**8])))),
        chunk(b"eXIf", raw[:1000]),
        chunk(b"tRNS", raw[:6]),
        b"",
    ]
    body = chunk(b"IDAT", zlib.compress(bytes((8 * 3 + 1) * 8)))
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + draw.choice(notes) + body + chunk(b"IEND", b"")
    return whole[: draw.randrange(len(whole))] if draw.random() < 0.2 else whole


def pictures(folder: Path, seed: int) -> Callable[[int], Attack]:
    """Files that call themselves pictures."""

    def make(i: int) -> Attack:
        draw = random.Random(f"{seed} picture {i}")
        path = folder / f"one.{draw.choice(['png', 'png', 'jpg', 'webp'])}"
        data = picture(draw)
        path.write_bytes(data)

        def read() -> None:
            scoring.written(path)
            if cli.main(["score", str(path), "--reward", "brightness"]) == 70:
                raise Failed("exit 70")

        return Attack(data[:200], refusing(read))

    return make


TARGETS: dict[str, Callable[[Path, int], Callable[[int], Attack]]] = {
    "commands": commands,
    "formulas": formulas,
    "settings": settings,
    "specs": specs,
    "plans": plans,
    "stores": stores,
    "pictures": pictures,
}
