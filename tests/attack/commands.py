"""Whole command lines: sound ones with one or two words changed, added, missing, or in another place."""

from __future__ import annotations

import os
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.attack.readers import formula
from tests.attack.target import Target, command
from tests.attack.words import text

from fairlead.run import engine
from fairlead.testing.runs import after, small_spec

SMALL = ["--model", "mixture", "--reward", "brightness", "--steps", "4"]
SOUND: list[list[str]] = [
    ["run", "a red apple", *SMALL, "--budget", "nfe=8", "--out", "new"],
    ["run", "a red apple", *SMALL, "--budget", "nfe=12", "--out", "new", "--keep", "2", "--json"],
    ["run", "a red apple", *SMALL, "--budget", "nfe=16", "--draft", "2", "--finals", "1", "--out", "new"],
    ["run", "a red apple", *SMALL, "--budget", "nfe=8", "--watch", "jpeg_size", "--group", "2", "--out", "new"],
    ["resume", "stopped"],
    ["resume", "finished", "--budget", "nfe=60", "--json"],
    ["replay", "finished", "best"],
    ["replay", "finished", "3", "--alone", "--out", "one.png", "--json"],
    ["report", "finished"],
    ["report", "finished", "stopped", "--out", "page.html"],
    ["list"],
    ["list", "searches"],
    ["list", "rewards", "clip_score", "--json"],
    ["list", "models", "mixture"],
    ["list", "runs"],
    ["keep", "finished", "3", "--likeness", "pixels", "--weight", "0.5"],
    ["score", "finished", "--reward", "jpeg_size", "--out", "table.csv"],
    ["score", "finished/best.png", "--reward", "brightness", "--prompt", "a dog", "--batch", "2", "--json"],
    ["score", "finished/images", "--reward", "brightness", "--prompts", "prompts.txt", "--stats", "stats.json"],
    ["compare", "plan.toml", "--report", "--out", "comparison"],
    ["compare", "plan.toml", "--method", "random", "--prompts", "1", "--seeds", "1", "--out", "comparison"],
    ["bench", "prompts", "--prompts", "prompts.txt", *SMALL, "--first", "1", "--images", "1", "--out", "bench"],
    ["calibrate", "a dog", *SMALL[:4], "--steps", "6", "--candidates", "4", "--draft", "2"],
    ["calibrate-repulsion", "a dog", "--model", "mixture", "--reward", "brightness", "--steps", "4", "--group", "2"],
    ["answer", "waiting", "--list"],
    ["answer", "waiting", "--give", "x=1"],
    ["answer", "stopped", "--finish"],
]
COUNTED: list[list[str]] = [
    ["price", "a red apple", *SMALL, "--budget", "nfe=8"],
    ["price", "a red apple", *SMALL, "--budget", "nfe=40", "--draft", "2", "--json"],
    ["run", "a red apple", *SMALL, "--dry-run"],
    ["run", "a red apple", *SMALL, "--space", "embedding", "--search", "sep_cma", "--dry-run", "--json"],
    ["run", "a red apple", *SMALL, "--steer", "demon", "--set", "demon.k=3", "--intervene", "cads", "--dry-run"],
]
"""Lines that compute nothing, so that every size may be tried."""
USUAL = {
    "--model": ["mixture", "pocket", "x", "./x", "finished"],
    "--reward": ["brightness", "jpeg_size", "min(brightness, jpeg_size)", "rank_mean(brightness, jpeg_size)"],
    "--watch": ["brightness", "jpeg_size"],
    "--search": ["best_of", "zero_order", "sep_cma", "bayes_opt", "adam", "evolution(n=1)", "best_of(n=2)"],
    "--steer": ["demon", "svdd", "lidar", "paths(children=2)", "feynman_kac", "date"],
    "--intervene": ["repulsion", "cads"],
    "--space": ["noise", "embedding", "product"],
    "--set": ["best_of.n=4", "mixture.x=1", "model.height=64", "demon.k=3", "demon.k=0", "cads.tau1=2"],
    "--sampler": ["euler", "heun", "ancestral", "ddim"],
    "--steps": ["1", "2", "8", "0", "-3"],
    "--group": ["1", "2", "3", "0"],
    "--batch": ["1", "3", "auto"],
    "--seed": ["0", "7", "-1", "9223372036854775807", "9223372036854775808"],
    "--draft": ["1", "2", "auto", "mixture", "mixture@1", "few(2)", "even(2)", "by(mixture,2)", "by(x,2)"],
    "--finals": ["1", "2", "0"],
    "--height": ["8", "64", "0"],
    "--width": ["8", "64", "1000000"],
    "--guidance-scale": ["1", "7.5", "-1", "nan"],
    "--negative-prompt": ["bad", ""],
    "--dtype": ["float32", "bfloat16", "float99"],
    "--variant": ["fp16"],
    "--revision": ["main"],
    "--keep": ["1", "2", "0"],
    "--likeness": ["pixels", "clip", "x", "./x"],
    "--weight": ["0", "1", "-1", "nan", "1e308"],
}
FLAGS = [
    "--json",
    "--dry-run",
    "--help",
    "--alone",
    "--trust",
    "--report",
    "--list",
    "--finish",
    "--x",
    "--no-json",
    "-h",
]
SIZES = [
    "100",
    "4096",
    "4097",
    "10000",
    "65536",
    "1e15",
    "2147483648",
    "nfe=20000",
    "nfe=1e308",
    "seconds=1",
    "dollars=1",
]
LONG = ("--budget", "--workers", "--candidates", "--images", "--first")
"""Options whose numbers say how much is computed: they are changed only to what cannot be read."""
ENDLESS = {"16", "1e999", "9" * 310, "9" * 5000}


def odd(option: str, draw: random.Random, counted: bool) -> str:
    """A value for an option."""
    if counted and draw.random() < 0.25:
        return draw.choice(SIZES)
    if option in LONG and not counted:
        return draw.choice([word for word in (text(draw), "x", "-1", "0", "nan", "nfe=0") if word not in ENDLESS])
    if draw.random() < 0.5 and option in USUAL:
        return draw.choice(USUAL[option])
    if option in ("--reward", "--watch", "--search", "--steer") and draw.random() < 0.6:
        return formula(draw)
    return text(draw)


def changed(words: list[str], draw: random.Random, counted: bool) -> list[str]:
    """One change."""
    at = draw.randrange(1, len(words))
    kind = draw.random()
    before = words[at - 1]
    if kind < 0.4:
        option = before if before.startswith("--") else ""
        return [*words[:at], odd(option, draw, counted), *words[at + 1 :]]
    if kind < 0.5:
        return words[:at] + words[at + 1 :]
    if kind < 0.55 and before not in LONG:
        return [*words[:at], words[at], *words[at:]]
    if kind < 0.6:
        other = draw.randrange(1, len(words))
        out = list(words)
        out[at] = words[other]
        out[other] = words[at]
        return out
    if kind < 0.7:
        return [*words, draw.choice(FLAGS)]
    if kind < 0.75:
        return [*words, text(draw)]
    option = draw.choice([*USUAL, "--out"])
    return [*words, option, odd(option, draw, counted)]


def make(draw: random.Random) -> list[str]:
    """A command line."""
    counted = draw.random() < 0.4
    words = list(draw.choice(COUNTED if counted else SOUND))
    for _ in range(draw.choice([0, 1, 1, 1, 1, 2, 2, 3])):
        words = changed(words, draw, counted) if len(words) > 1 else words
    return [text(draw), *words[1:]] if draw.random() < 0.01 else words


PLAN = """
model = "mixture"
reward = "brightness"
budget = "nfe=8"
steps = 4
prompts = ["a", "b"]
[methods.random]
search = "best_of"
[methods.zero]
search = "zero_order"
"""


def endless(words: list[str]) -> bool:
    """True if a line that computes could go on for long: its budget was moved to another place, or is gone."""
    if words and words[0] in ("run", "bench") and "--dry-run" not in words:
        limits = [b for a, b in pairwise(words) if a == "--budget"]
        return not limits or any(limit not in ("nfe=8", "nfe=12", "nfe=16") for limit in limits)
    return False


def commands(folder: Path) -> Target:
    """Every command, in a folder with runs, pictures, prompts and a plan."""
    model = folder / "model"
    model.mkdir()
    engine.start(small_spec(), model / "finished").close()
    engine.start(small_spec(), model / "stopped", stop=after(2)).close()
    engine.start(small_spec(reward="human", group=2), model / "waiting").close()
    (model / "plan.toml").write_text(PLAN)
    (model / "prompts.txt").write_text("a dog\na cat\n")
    deep = folder / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)

    def run(words: list[str]) -> None:
        here: Any = deep / "work"
        os.chdir(folder)
        shutil.rmtree(folder / "a", ignore_errors=True)
        shutil.copytree(model, here)
        os.chdir(here)
        if endless(words):
            words = [*words, "--dry-run"] if words[0] == "run" else [*words, "--help"]
        command(words)

    return Target(make, run, ())  # what typer refuses is counted by its place
