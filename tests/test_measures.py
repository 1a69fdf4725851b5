"""The measures of readability, printed with every test run; none may become worse."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tools import measures


def test_measures(capsys: pytest.CaptureFixture[str]) -> None:
    found = measures.measure()
    with capsys.disabled():
        print("\n" + measures.report(found))
    for one in found:
        places = ", ".join(one.where[:20])
        assert one.holds, f"{one.name}: {one.value:.1f}, the limit is {one.limit:g}. Places: {places}"


@pytest.mark.parametrize(
    ("count", "seen", "fine"),
    [
        (measures.tuple_assignments, "a, b = f(x), g(y)", "a, b = b, a\nlow, high = 0, 1\nx, y = point"),
        (measures.nested_comprehensions, "[[f(x) for x in y] for y in z]", "[x for y in z for x in y]"),
        (measures.nested_conditionals, "1 if a else 2 if b else 3", "1 if a else 2"),
        (measures.long_lines, "x = '" + "y" * 130 + "'", "x = 1"),
        (measures.unformatted, "x  = 1  # fmt: skip", "x = 1  # formatted"),
    ],
)
def test_what_counts(
    count: Callable[[measures.Sources], list[str]],
    seen: str,
    fine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text(f"{seen}\n")
    assert len(count(measures.Sources([tmp_path]))) == 1
    (tmp_path / "code.py").write_text(f"{fine}\n")
    assert count(measures.Sources([tmp_path])) == []


def test_an_error_names_a_value(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        textwrap.dedent("""
        def f(x):
            raise ValueError(f"x must be positive, but is {x}")
        def g(x):
            raise ValueError("x is wrong")
        def h(x):
            raise unknown("model", x, known)
        def i(x):
            raise missing("model", "weights")
        """)
    )
    total, silent = measures.raises(measures.Sources([tmp_path]))
    assert total == 4
    assert [where.rpartition(":")[2] for where in silent] == ["5", "9"]


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert [sorted(group) for group in measures._components(graph) if len(group) > 1] == [["a", "b", "c"]]
    assert measures.between_folders([["run.a", "run.b"], ["run.a", "core.b"]]) == [["run.a", "core.b"]]
