"""The report of any run is one readable file that fetches nothing."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import app
from fairlead.app import funnel
from fairlead.app.chart import Chart, Line, svg
from fairlead.app.report import GALLERY, write_report
from fairlead.app.runs_page import write_runs_page
from fairlead.app.svg import element
from fairlead.app.words import number
from fairlead.core.errors import StoreError
from fairlead.run import engine
from fairlead.run.spec import make_spec
from fairlead.run.view import View

SECTIONS = ("winner", "charts", "gallery", "terms", "cost", "settings", "versions", "commands")
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps ids, text, addresses."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.images = 0
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.images += tag == "img"
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href") and value:
                self.addresses.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_every_section_is_there_and_nothing_is_fetched(make_run: Callable[..., Path]) -> None:
    page = read(make_run())
    assert [name for name in SECTIONS if name not in page.ids] == []
    assert all(address.startswith("data:") for address in page.addresses)
    for told in (
        "a photo of a red apple",
        "+0.3000",
        "candidate 2",
        "640",
        "the budget of NFE is spent",
        "2.13.0",
        "brightness",
    ):
        assert told in page.text
    assert page.images == 2 + 4 + 1  # best, baseline, gallery, the enlarged one


def test_commands_repeat_the_run(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = make_run(spec=make_spec("a dog", reward="brightness", budget={"nfe": 100}))
    page = read(folder)
    for line in (
        f"replay {folder} 2",
        f"resume {folder} --budget nfe=200",
        "run 'a dog' --model pocket --reward brightness",
    ):
        assert f"fairlead {line}" in page.text
    monkeypatch.chdir(tmp_path)
    assert f"fairlead replay {folder.name} 2" in read(folder).text


def test_text_is_escaped(make_run: Callable[..., Path]) -> None:
    evil = '<script>alert(1)</script> & "quotes" <img src=x onerror=y>'
    folder = make_run(
        spec=make_spec(evil, reward="brightness"),
        warnings=json.dumps([evil]),
        stopped=evil,
        terms=lambda reward: {evil: reward},
    )
    raw = write_report(folder).read_text(encoding="utf-8")
    assert "<script>alert" not in raw
    assert "<img src=x" not in raw
    assert Page(raw).text.count(evil) >= 4


def test_charts_are_escaped_too() -> None:
    evil = 'a" onload="alert(1)"><script>'
    raw = str(element("text", evil, aria_label=evil))
    assert raw.count("<") == 2, "the opening and the closing tag"
    assert Page(raw).text == evil
    assert element("g", element("line", x1=1.25)) == '<g><line x1="1.2"/></g>'


def test_markup_is_written_in_templates_only() -> None:
    """No tag in a string of the application: a value in it would not be escaped."""
    for path in Path(app.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                assert not re.search(r"</?[a-z][a-z0-9]*[ />]", node.value), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize(
    ("rewards", "options"),
    [
        ([0.4], {}),
        ([0.4, 0.4, 0.4], {}),
        ([-5.0, -7.0], {"baseline": -1.0}),
        ([1e-9, 3e9], {}),
        ([math.inf, 1.0, -math.inf], {}),
        ([math.nan, 0.2], {}),
        ([math.nan, math.nan], {}),
        ([], {"status": "running", "stopped": ""}),
        ([0.1, 0.2], {"status": "running", "stopped": ""}),
        ([0.1, 0.2], {"status": "stopped", "stopped": "interrupted"}),
    ],
)
def test_any_run_has_a_report(make_run: Callable[..., Path], rewards: list[float], options: dict[str, object]) -> None:
    page = read(make_run(rewards, **options))
    assert "winner" in page.ids
    assert "nan" not in page.text.lower()
    if options.get("status"):
        assert "continue this run" in page.text
    if any(r != r for r in rewards):
        assert "got no number" in page.text


def test_failed_candidates_never_win(make_run: Callable[..., Path]) -> None:
    page = read(make_run([math.nan, 0.2, math.nan, 0.7]))
    assert "Best found candidate 3" in page.text
    assert page.text.count("failed") >= 2


def test_a_large_run_is_capped(make_run: Callable[..., Path]) -> None:
    folder = make_run([(i * 37 % 500) / 500 for i in range(500)], batch=100)
    page = read(folder)
    assert page.images == 2 + GALLERY + 1
    assert f"the best {GALLERY} of 500" in page.text
    assert (folder / "report.html").stat().st_size < 3_000_000


def test_large_pictures_are_inlined_smaller(make_run: Callable[..., Path]) -> None:
    from PIL import Image

    folder = make_run([0.1])
    picture = next((folder / "images").iterdir())
    noise = Image.effect_noise((1200, 1100), 80).convert("RGB")
    noise.save(picture)
    noise.save(folder / "best.png")
    assert write_report(folder).stat().st_size < 0.8 * picture.stat().st_size


def test_missing_pictures_do_not_matter(make_run: Callable[..., Path]) -> None:
    folder = make_run()
    for picture in [*(folder / "images").iterdir(), folder / "best.png", folder / "baseline.png"]:
        picture.unlink()
    assert "the picture is missing" in read(folder).text


def test_a_moved_run_can_be_reported(make_run: Callable[..., Path], tmp_path: Path) -> None:
    moved = make_run().rename(tmp_path / "else where")
    assert f"fairlead replay '{moved}' 2" in read(moved).text


def test_one_sentence_when_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no run\.sqlite"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_several_runs_on_one_page(make_run: Callable[..., Path], tmp_path: Path) -> None:
    specs = [make_spec("a dog", reward="brightness", seed=seed) for seed in (1, 2)]
    folders = [make_run(spec=spec) for spec in specs] + [make_run([])]
    out = write_runs_page(folders[:2], tmp_path / "c.html")
    page = Page(out.read_text(encoding="utf-8"))
    assert "seed 1" in page.text
    assert "seed 2" in page.text
    assert {"winners", "numbers", "commands"} <= set(page.ids)
    write_runs_page(folders, out)
    other = tmp_path / "notes.html"
    other.write_text("mine")
    with pytest.raises(StoreError, match="not a fairlead page"):
        write_runs_page(folders, other)
    assert other.read_text() == "mine"


def test_charts_have_axes_ticks_and_labels(make_run: Callable[..., Path]) -> None:
    raw = write_report(make_run()).read_text(encoding="utf-8")
    charts = re.findall(r"<svg.*?</svg>", raw, flags=re.S)
    assert len(charts) == 2
    for chart, label in zip(charts, ("NFE", "seconds"), strict=True):
        assert chart.count('class="grid"') >= 3
        assert chart.count('class="tick"') >= 3
        assert chart.count('class="dot"') == 4
        assert label in chart
        assert "nan" not in chart


HARD = [0.0, 5e-324, 1e-300, 1e-18, 1.1e-16, 1e-12, 1.0, 1.0 + 2.3e-16, 1e17, 1e300, 1.7e308]
numbers = st.sampled_from([*HARD, *(-value for value in HARD)])


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3), numbers, numbers)
def test_a_chart_is_drawn_from_any_finite_numbers(points: list[tuple[float, float]], end: float, limit: float) -> None:
    """A record without costs puts its candidates at 1e-16 seconds or so: axes were as short as rounding errors."""
    dots = [(x, y, "words") for x, y in points]
    drawn = svg(Chart("title", "x", "y", [Line("line", points, end)], dots=dots, baseline=end, limit=abs(limit)))
    assert "nan" not in drawn
    assert drawn.count('class="dot"') == len(points)


def test_drafts_and_finished_pictures_have_a_legend(tmp_path: Path) -> None:
    spec = make_spec("a dog", model="mixture", reward="brightness", steps=4, draft=2, finals=4, budget={"nfe": 60})
    engine.start(spec, tmp_path / "run").close()
    view = View.read(tmp_path / "run")
    drafts = [c for c in view.candidates if c.refines is None]
    assert view.best is not None
    assert number(max(c.reward for c in drafts)) != number(view.best.reward), "or the label would prove nothing"
    raw = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert raw.count("</i>best draft so far: 2 evaluations") == raw.count("</i>best finished so far") == 2
    for chart in re.findall(r"<svg.*?</svg>", raw, flags=re.S):
        assert chart.count('class="dot draft"') == len(drafts)
        assert chart.count('class="dot"') == len(view.candidates) - len(drafts)
        assert set(re.findall(r'class="best"[^>]*stroke:([^"]+)"', chart)) == {funnel.colour(0), "var(--accent)"}
        assert f">best {number(view.best.reward)}<" in chart
    plain = tmp_path / "plain"
    engine.start(make_spec("a dog", model="mixture", reward="brightness", steps=4, budget={"nfe": 60}), plain).close()
    assert 'class="key"' not in write_report(plain).read_text(encoding="utf-8")
