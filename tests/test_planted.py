"""The test of the tests: known bugs are put into the code, one at a time, and a named law must fail.

The bugs are listed in `tests/planted/*.toml`, one file for each folder of the package:

    ["heun without its second evaluation"]          # the bug in words
    file = "src/fairlead/core/samplers.py"          # where it is
    before = "y0 = denoise(y, to)"                  # a piece of one line, which must occur once in the file
    after = "y0 = x0"                               # what replaces it
    law = "core/test_sampling:test_order_of_convergence"    # the test that must fail
    arguments = { expected = 2 }                    # the test's parameters, if it has any
    objects = { sampler = "heun", levels = "preserving" }   # parameters that are names of the test's module

`function = "Store.best"` is needed where the piece occurs more than once in the file. `raises = "Exception"` is needed
where the law fails with something other than an AssertionError. A law is a test of the suite, or a function of
`tests/planted/laws.py`, written `laws:NAME`. Its fixtures are provided as usual. Each law first runs on the sound code,
where it must pass.
"""

from __future__ import annotations
import __future__ as future

import ast
import difflib
import importlib
import inspect
import pkgutil
import shutil
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from _pytest.outcomes import Failed

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@dataclass(frozen=True)
class Bug:
    """One entry of the lists."""

    file: str
    before: str
    after: str
    law: str
    function: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    raises: str = "AssertionError"

    @property
    def expected(self) -> tuple[type[BaseException], ...]:
        """What the law may fail with. `Failed` is what `pytest.raises` raises when nothing was raised."""
        if self.raises == "Failed":
            return (Failed,)
        name = self.raises if ":" in self.raises else f"builtins:{self.raises}"
        return (pkgutil.resolve_name(name), Failed)


def read() -> dict[str, Bug]:
    """Every bug by its name."""
    bugs: dict[str, Bug] = {}
    for path in sorted((TESTS / "planted").glob("*.toml")):
        for name, words in tomllib.loads(path.read_text()).items():
            assert name not in bugs, f"{path.name}: {name!r} is listed twice"
            bugs[name] = Bug(**words)
    return bugs


BUGS = read()


# planting


def module_of(file: str) -> Any:
    """src/fairlead/core/key.py -> fairlead.core.key; tests/items.py -> items."""
    path = Path(file).with_suffix("")
    return importlib.import_module(".".join(path.parts[1:]))


def enclosing_function(bug: Bug) -> str:
    """The qualified name of the function that holds the piece of text."""
    if bug.function:
        return bug.function
    text = (ROOT / bug.file).read_text()
    if text.count(bug.before) != 1:
        pytest.fail(f"{bug.before!r} occurs {text.count(bug.before)} times in {bug.file}. {advice(bug, text)}")
    line = text[: text.index(bug.before)].count("\n") + 1
    found = ""

    def visit(node: ast.AST, path: tuple[str, ...]) -> None:
        nonlocal found
        for child in ast.iter_child_nodes(node):
            inside = path
            if isinstance(child, ast.ClassDef):
                inside = (*path, child.name)
            elif isinstance(child, ast.FunctionDef) and "<locals>" not in path:
                inside = (*path, child.name)
                if child.lineno <= line <= (child.end_lineno or 0) and not found:
                    found = ".".join(inside)
            visit(child, inside)

    visit(ast.parse(text), ())
    assert found, f"{bug.before!r} is not inside a function of {bug.file}"
    return found


def advice(bug: Bug, text: str) -> str:
    """What to do when the code was edited and the piece of text is no longer there, or no longer unique."""
    if bug.before in text:
        return "Add `function` to the entry, or choose a longer piece."
    lines = [line.strip() for line in text.splitlines()]
    close = difflib.get_close_matches(bug.before, lines, n=1, cutoff=0.3)
    return f"Update the entry in tests/planted; the closest line is {close[0]!r}." if close else "Update the entry."


def function_of(bug: Bug) -> Any:
    """The plain function that holds the bug, without its decorators."""
    found: Any = module_of(bug.file)
    for part in enclosing_function(bug).split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "fget", found)
    found = getattr(found, "__func__", found)
    return inspect.unwrap(found)


def planted(bug: Bug, function: Any) -> CodeType:
    """The function's code with the bug in it."""
    source = inspect.getsource(function)
    count = source.count(bug.before)
    if count != 1:
        pytest.fail(f"{bug.before!r} occurs {count} times in {function.__qualname__}. {advice(bug, source)}")
    text = textwrap.dedent(source.replace(bug.before, bug.after))
    scope: dict[str, Any] = dict(function.__globals__)
    exec(compile(text, f"<{function.__qualname__}, planted>", "exec", future.annotations.compiler_flag), scope)
    made = scope[function.__name__]
    made = getattr(made, "fget", made)
    made = inspect.unwrap(getattr(made, "__func__", made))
    code: CodeType = made.__code__
    assert code.co_freevars == function.__code__.co_freevars
    return code


# laws


class Laws:
    """Calls a law with its arguments and fixtures, each time with a fresh folder."""

    def __init__(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self._request, self._monkeypatch = request, monkeypatch
        self._folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")

    def call(self, bug: Bug) -> None:
        """Returns if the law holds."""
        where, _, name = bug.law.partition(":")
        path = TESTS / ("planted/laws.py" if where == "laws" else f"{where}.py")
        folders = [path.parent] if where != "laws" else [p for p in TESTS.iterdir() if p.is_dir()]
        for folder in folders:
            self._monkeypatch.syspath_prepend(str(folder))
        module = importlib.import_module(path.stem)
        assert module.__file__ == str(path), f"two test files are called {path.name}"
        law = getattr(module, name)
        arguments = dict(bug.arguments)
        arguments |= {parameter: getattr(module, attribute) for parameter, attribute in bug.objects.items()}
        law(**self._with_fixtures(law, arguments, module, {}))

    def _with_fixtures(
        self, law: Callable[..., Any], arguments: dict[str, Any], module: Any, made: dict[str, Any]
    ) -> dict[str, Any]:
        if hasattr(law, "hypothesis"):
            return arguments
        for parameter in inspect.signature(law).parameters:
            if parameter not in arguments:
                if parameter not in made:
                    made[parameter] = self._fixture(parameter, module, made)
                arguments[parameter] = made[parameter]
        return arguments

    def _fixture(self, name: str, module: Any, made: dict[str, Any]) -> Any:
        if name == "tmp_path":
            return self._folders.mktemp("law")
        if hasattr(module, name):  # a fixture of the test's own module
            make = inspect.unwrap(getattr(module, name))
            return make(**self._with_fixtures(make, {}, module, made))
        if name == "run":  # the copy of conftest.py, anew for each call: a law writes into it
            return Path(shutil.copytree(self._request.getfixturevalue("made"), self._folders.mktemp("law") / "run"))
        return self._request.getfixturevalue(name)


@pytest.mark.parametrize("name", BUGS)
def test_a_law_notices(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS[name]
    laws = Laws(request, monkeypatch)
    laws.call(bug)
    function = function_of(bug)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, "__code__", planted(bug, function))
        with pytest.raises(bug.expected):
            laws.call(bug)


def test_every_bug_can_be_planted() -> None:
    """A quick check after an edit: every piece of text is where its list says it is."""
    for bug in BUGS.values():
        planted(bug, function_of(bug))


def test_there_are_enough() -> None:
    assert len(BUGS) >= 130


def test_a_bug_is_a_line() -> None:
    """One line each, but for the few that move a statement."""
    longer = [name for name, bug in BUGS.items() if "\n" in bug.before.strip() or "\n" in bug.after.strip()]
    assert longer == ["recorded before the pictures are written"]


def test_a_piece_of_text_that_is_gone_is_explained() -> None:
    bug = Bug("src/fairlead/core/samplers.py", "y0 = denoise(z, to)", "y0 = x0", "laws:scoring")
    with pytest.raises(Failed, match=r"occurs 0 times.*closest line is 'y0 = denoise\(y, to\)'"):
        function_of(bug)
