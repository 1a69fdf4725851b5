"""How easy the code is to read, in numbers: `python -m tools.measures [FOLDER...]`.

The numbers are compared with those of small libraries of the field (k-diffusion, optax, evosax, botorch). Each has a
limit, and `tests/test_measures.py` prints the table and fails where a limit is passed.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fairlead"
LINE = 120


@dataclass(frozen=True)
class Measure:
    """One number, with the largest (or smallest) that is accepted."""

    name: str
    value: float
    limit: float
    at_least: bool = False
    where: tuple[str, ...] = ()
    """The places that count, as file:line."""

    @property
    def holds(self) -> bool:
        """True within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Sources:
    """Parsed files."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
        self.texts = {path: path.read_text(encoding="utf-8") for path in self.paths}
        trees = {path: ast.parse(text) for path, text in self.texts.items()}
        self._nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]

    def nodes(self) -> list[tuple[Path, ast.AST]]:
        """Every node with its file."""
        return self._nodes


def place(path: Path, node: ast.AST) -> str:
    """src/fairlead/core/key.py:12."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{shown}:{getattr(node, 'lineno', 0)}"


# lines


def tuple_assignments(sources: Sources) -> list[str]:
    """`a, b = f(x), g(y)`: two statements in one line. Unpacking one value and exchanging variables do not count."""
    found = []
    for path, node in sources.nodes():
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and not _related(target, node.value):
            found.append(place(path, node))
    return found


def _related(target: ast.Tuple, value: ast.Tuple) -> bool:
    """True for literals (`low, high = 0, 1`) and where a value uses another target (`a, b = b, a + b`)."""
    if all(isinstance(element, ast.Constant) for element in value.elts):
        return True
    names = [ast.unparse(element) for element in target.elts]
    for own, element in zip(names, value.elts, strict=False):
        used = {ast.unparse(node) for node in ast.walk(element) if isinstance(node, ast.Name | ast.Attribute)}
        if used & (set(names) - {own}):
            return True
    return False


def nested_comprehensions(sources: Sources) -> list[str]:
    """A comprehension inside the element of another."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    found = []
    for path, node in sources.nodes():
        if isinstance(node, kinds):
            elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            inner = [child for element in elements if element for child in ast.walk(element)]
            if any(isinstance(child, kinds) for child in inner):
                found.append(place(path, node))
    return found


def nested_conditionals(sources: Sources) -> list[str]:
    """`a if p else b if q else c`."""
    found = []
    for path, node in sources.nodes():
        if isinstance(node, ast.IfExp):
            inside = [child for part in (node.body, node.test, node.orelse) for child in ast.walk(part)]
            if any(isinstance(child, ast.IfExp) for child in inside):
                found.append(place(path, node))
    return found


def long_lines(sources: Sources) -> list[str]:
    """Lines of more than 120 characters."""
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in sources.texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE
    ]


def unformatted(sources: Sources) -> list[str]:
    """Lines or blocks that the formatter leaves alone."""
    marks = re.compile(r"#\s*fmt:\s*(?:skip|off)\b")
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in sources.texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if marks.search(line)
    ]


# errors


def raises(sources: Sources) -> tuple[int, list[str]]:
    """How many errors are raised with a message, and those whose message names no value."""
    total = 0
    silent = []
    for path, node in sources.nodes():
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
            continue
        total += 1
        # Every argument counts: unknown("model", name, known) prints the name.
        inside = [part for argument in node.exc.args for part in ast.walk(argument)]
        if not any(isinstance(part, ast.FormattedValue | ast.Name | ast.Call) for part in inside):
            silent.append(place(path, node))
    return total, silent


# imports


def modules(folder: Path = PACKAGE) -> dict[str, Path]:
    """Every module of the package by its name below the package."""
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        names[name or "__init__"] = path
    return names


def _ends_where_types_are_checked(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(node: ast.AST, names: Iterable[str], inner: bool) -> Iterator[str]:
    """Modules of the package that this code imports; `inner` also inside functions. Types alone do not count."""
    known = set(names)
    for child in ast.iter_child_nodes(node):
        if _ends_where_types_are_checked(child):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inner:
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("fairlead"):
            module = (child.module or "").removeprefix("fairlead").removeprefix(".")
            for alias in child.names:
                whole = f"{module}.{alias.name}".removeprefix(".")
                yield whole if whole in known else module
        elif isinstance(child, ast.Import):
            yield from (a.name.removeprefix("fairlead.") for a in child.names if a.name.startswith("fairlead."))
        else:
            yield from imports(child, known, inner)


def circles(inner: bool = True) -> list[list[str]]:
    """Groups of files that import each other, smallest first; the public `__init__` does not count."""
    names = modules()
    graph = {name: set(imports(ast.parse(path.read_text()), names, inner)) & set(names) for name, path in names.items()}
    for name in ("__init__", "api"):
        graph.pop(name, None)
    return sorted((sorted(group) for group in _components(graph) if len(group) > 1), key=len)


def _components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node] & graph.keys()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            found.append(group)

    for name in graph:
        if name not in index:
            visit(name)
    return found


def between_folders(groups: list[list[str]]) -> list[list[str]]:
    """Those circles whose files lie in more than one folder."""
    return [group for group in groups if len({name.partition(".")[0] for name in group}) > 1]


# all together


def median_lengths(sources: Sources) -> tuple[float, float]:
    """Lines of the median file, and of the median function's body."""
    files = [len(text.splitlines()) for text in sources.texts.values() if text.strip()]
    functions = [
        (node.end_lineno or 0) - node.body[0].lineno + 1
        for _, node in sources.nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return statistics.median(files), statistics.median(functions)


def measure(folders: Iterable[Path] = (PACKAGE,)) -> list[Measure]:
    """Every number with its limit."""
    sources = Sources(folders)
    statements = sum(isinstance(node, ast.stmt) for _, node in sources.nodes())
    pairs = tuple_assignments(sources)
    total, silent = raises(sources)
    share = 100 * (1 - len(silent) / max(1, total))
    file, function = median_lengths(sources)
    comprehensions = nested_comprehensions(sources)
    conditionals = nested_conditionals(sources)
    long = long_lines(sources)
    skipped = unformatted(sources)
    groups = circles()
    crossing = between_folders(groups)
    per_thousand = 1000 * len(pairs) / max(1, statements)
    return [
        Measure("tuple assignments of unrelated values, per 1,000 statements", per_thousand, 5, where=tuple(pairs)),
        Measure("comprehensions in comprehensions", len(comprehensions), 1, where=tuple(comprehensions)),
        Measure("nested conditional expressions", len(conditionals), 0, where=tuple(conditionals)),
        Measure(f"lines of more than {LINE} characters", len(long), 0, where=tuple(long)),
        Measure("lines the formatter leaves alone", len(skipped), 10, where=tuple(skipped)),
        Measure("lines of the median file", file, 120),
        Measure("lines of the median function", function, 8),
        Measure("errors that name a value, percent", share, 90, at_least=True, where=tuple(silent)),
        Measure("circles between files", len(groups), 2, where=tuple(" <-> ".join(group) for group in groups)),
        Measure("circles between folders", len(crossing), 0, where=tuple(" <-> ".join(group) for group in crossing)),
    ]


def report(measures: list[Measure], places: bool = False) -> str:
    """A table, and with `places` every place that counts."""
    lines = []
    for one in measures:
        word = "at least" if one.at_least else "at most"
        mark = "" if one.holds else "   <- not yet"
        lines.append(f"{one.value:8.1f}  {one.name} ({word} {one.limit:g}){mark}")
        if places:
            lines += [f"            {where}" for where in one.where]
    return "\n".join(lines)


def main() -> int:
    """Print the table; exit code 1 if a limit is passed."""
    words = sys.argv[1:]
    folders = [Path(word).resolve() for word in words if word != "--places"] or [PACKAGE]
    found = measure(folders)
    print(report(found, "--places" in words))
    return 0 if all(one.holds for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
