"""What the terminal shows at 80 columns: no path is broken, every number has its meaning."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from fairlead.app.cli import main
from fairlead.app.console import plain_table, print_pairs, print_table

WIDTH = 80


def narrow() -> Console:
    return Console(width=WIDTH, file=io.StringIO(), highlight=False)


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("length", [10, 66, 67, 68, 78, 79, 80, 81, 200])
def test_a_path_is_on_one_line(length: int) -> None:
    path = Path("runs") / ("x" * (length - 5))
    console = narrow()
    print_pairs(console, [("reward", "up " * 60), ("best of it", path), ("stopped", Text("spent"))])
    lines = said(console)
    assert sum(str(path) in line for line in lines) == 1
    assert all(len(line) <= max(WIDTH, length) for line in lines)
    named = [line for line in lines if line[:1].strip() and line != str(path)]
    assert [line.split()[0] for line in named] == ["reward", "best", "stopped"]
    assert not any(line.endswith(" ") for line in lines if not line.startswith("best"))


def test_a_table_lets_lines_run_over_before_it_cuts_a_word() -> None:
    path = "pictures/" + "y" * 70 + ".png"
    table = plain_table("rank", "clip_score", "file", whole=("file",))
    table.add_row("1", "83.56", path)
    console = narrow()
    print_table(console, table)
    assert path in "\n".join(said(console))
    long = plain_table("name", "what", whole=("name",))
    words = [f"word{i}" for i in range(60)]
    long.add_row("x" * 70, " ".join(words))
    print_table(console, long)
    assert all(word in console.file.getvalue() for word in words), "nothing is lost"  # type: ignore[attr-defined]
    several = plain_table("name", "of", "file", "what", whole=("name", "of", "file"))
    several.add_row("two words", "a few more words", path, " ".join(words))
    print_table(console, several)
    (first, *_) = [line for line in said(console) if "two words" in line]
    assert first.startswith(f"two words  a few more words  {path}")


def test_the_list_of_runs_is_readable_at_80_columns(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(name="runs/20261121-181811-a-photo-of-a-red-apple-left-of-a-dog-and-a-cat")
    monkeypatch.chdir(folder.parent.parent)
    monkeypatch.setattr("fairlead.app.listing.stdout", lambda: Console(width=WIDTH, highlight=False))
    assert main(["list", "runs"]) == 0
    out = capsys.readouterr().out
    assert f"runs/{folder.name}\n" in out
    assert "a photo of a red apple\n" in out
    assert "0.5000 → 0.8000 (+0.3000)" in out


def test_a_reward_says_what_its_number_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "rewards", "clip_score"]) == 0
    assert "A point of the reward: 100 × cosine of picture and prompt, -100 to 100." in capsys.readouterr().out
