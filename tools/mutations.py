"""Small errors for `python -m tools.mutate`: where a file can be changed, and how.

A mutation replaces one piece of the text, so everything else stays as it was written. Annotations, docstrings,
messages, assertions, decorators and `raise` statements are left alone: a change there is no change of behaviour.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
}
COMPARISONS: dict[type[ast.AST], tuple[tuple[str, str], ...]] = {
    ast.Lt: (("<", "<="), ("<", ">")),
    ast.LtE: (("<=", "<"), ("<=", ">")),
    ast.Gt: ((">", ">="), (">", "<")),
    ast.GtE: ((">=", ">"), (">=", "<")),
    ast.Eq: (("==", "!="),),
    ast.NotEq: (("!=", "=="),),
    ast.Is: (("is", "is not"),),
    ast.IsNot: (("is not", "is"),),
    ast.In: (("in", "not in"),),
    ast.NotIn: (("not in", "in"),),
}
OPPOSITES = {"min": "max", "amin": "amax", "argmin": "argmax", "sum": "mean", "floor": "ceil", "any": "all"}
OPPOSITES |= {"sin": "cos", "minimum": "maximum", "cumsum": "cumprod"}
OPPOSITES |= {after: before for before, after in OPPOSITES.items()}
SYMMETRIC = {"min", "max", "minimum", "maximum", "equal", "allclose", "isclose", "gcd", "add", "mul"}
NO_ORDER = {"isinstance", "issubclass", "getattr", "hasattr", "setattr"}
"""Calls whose exchanged arguments would fail at once."""
MESSAGES = {"warn", "warning", "print", "cast", "TypeVar"}
FOLDERS = {"mkdir"}
"""Its flags matter only where a folder is missing or already there."""
SKIPPED_KEYWORDS = {"strict", "repr", "indent", "encoding", "stacklevel", "category"}
SKIPPED_FUNCTIONS = {"__repr__", "__str__"}


@dataclass(frozen=True)
class Mutation:
    """One small error: the characters `start` to `end` of the file become `after`."""

    file: str
    function: str
    """Qualified name, or that of the class; empty outside both."""
    line: int
    start: int
    end: int
    kind: str
    before: str
    after: str
    shown: str = ""
    """The whole line as it is written."""
    in_function: bool = True
    """False for lines that run when the module is imported."""
    ordinal: int = 0
    """Counts equal changes of one function."""

    @property
    def key(self) -> str:
        """Names the mutation also after lines above it have changed."""
        words = f"{self.file}|{self.function}|{self.kind}|{self.shown}|{self.before}|{self.after}|{self.ordinal}"
        return blake2b(words.encode(), digest_size=5).hexdigest()

    def apply(self, text: str) -> str:
        """The file with the error in it."""
        return text[: self.start] + self.after + text[self.end :]


class _Finder:
    """Walks one file and collects mutations."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text
        self._depth = 0
        self._lines = text.splitlines(keepends=True)
        self._offsets = [0]
        for line in self._lines:
            self._offsets.append(self._offsets[-1] + len(line))
        self.found: list[Mutation] = []

    # places

    def _offset(self, line: int, column: int) -> int:
        """Characters before a place; the syntax tree counts columns in bytes."""
        return self._offsets[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _start(self, node: ast.AST) -> int:
        return self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def _end(self, node: ast.AST) -> int:
        return self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _source(self, node: ast.AST) -> str:
        return self._text[self._start(node) : self._end(node)]

    def _add(self, kind: str, start: int, end: int, after: str, function: str) -> None:
        line = self._text.count("\n", 0, start) + 1
        before, shown = self._text[start:end], self._lines[line - 1].strip()
        self.found.append(Mutation(self._file, function, line, start, end, kind, before, after, shown, self._depth > 0))

    # walking

    def walk(self, node: ast.AST, function: str = "") -> None:
        """Collects from a node and all below it."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            return
        if isinstance(node, ast.If) and ("TYPE_CHECKING" in ast.dump(node.test) or "__main__" in ast.dump(node.test)):
            return
        if isinstance(node, ast.Call) and _name(node.func) in MESSAGES | FOLDERS:
            return
        if isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS:
            return
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name in SKIPPED_FUNCTIONS:
                return
            function = f"{function}.{node.name}".lstrip(".")
        self._look(node, function)
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "type_comment"}:
                continue
            inside = name == "body" and isinstance(node, ast.FunctionDef | ast.Lambda)
            self._depth += inside
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.walk(child, function)
            self._depth -= inside

    def _look(self, node: ast.AST, function: str) -> None:
        if isinstance(node, ast.BinOp):
            self._operator(node, function)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            self._add("sign", self._start(node), self._end(node), f"({self._source(node.operand)})", function)
        elif isinstance(node, ast.Compare):
            self._compare(node, function)
        elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
            self._both(node, function)
        elif isinstance(node, ast.Constant):
            self._constant(node, function)
        elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
            self._between("sign", node.target, node.value, *_assigned(node.op), function)
        elif isinstance(node, ast.Call):
            self._call(node, function)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self._add("dropped call", self._start(node), self._end(node), "pass", function)

    # kinds

    def _between(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str, function: str) -> None:
        """Replaces an operator, which stands between two nodes, perhaps among brackets."""
        start, end = self._end(left), self._start(right)
        between = self._text[start:end]
        if old in between and "#" not in between:
            self._add(kind, start, end, between.replace(old, new, 1), function)

    def _operator(self, node: ast.BinOp, function: str) -> None:
        texts = (ast.Constant, ast.JoinedStr)
        if any(isinstance(n, texts) and not _number(n) for n in (node.left, node.right)):
            return
        if type(node.op) not in OPERATORS:
            return
        self._between("sign", node.left, node.right, *OPERATORS[type(node.op)], function)
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            start, end = self._start(node), self._end(node)
            self._add("dropped term", start, end, f"({self._source(node.left)})", function)
            if isinstance(node.op, ast.Add | ast.Mult):
                self._add("dropped term", start, end, f"({self._source(node.right)})", function)

    def _compare(self, node: ast.Compare, function: str) -> None:
        if len(node.ops) == 1:
            for old, new in COMPARISONS[type(node.ops[0])]:
                kind = "off by one" if {old, new} in ({"<", "<="}, {">", ">="}) else "comparison"
                self._between(kind, node.left, node.comparators[0], old, new, function)

    def _both(self, node: ast.BoolOp, function: str) -> None:
        left, right = node.values
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self._between("comparison", left, right, old, new, function)
        for kept in (left, right):
            self._add("dropped term", self._start(node), self._end(node), f"({self._source(kept)})", function)

    def _constant(self, node: ast.Constant, function: str) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("flag", self._start(node), self._end(node), str(not value), function)
        elif isinstance(value, int):
            self._add("off by one", self._start(node), self._end(node), str(value + 1), function)
        elif isinstance(value, float):
            after = repr(2 * value) if value else "1.0"
            self._add("factor", self._start(node), self._end(node), after, function)

    def _call(self, node: ast.Call, function: str) -> None:
        name = _name(node.func)
        if name in OPPOSITES:
            end = self._end(node.func)
            self._add("min/max", end - len(name), end, OPPOSITES[name], function)
        if len(node.args) < 2 or name in SYMMETRIC | NO_ORDER:
            return
        first, second = node.args[:2]
        if isinstance(first, ast.Starred) or isinstance(second, ast.Starred):
            return
        if self._source(first) == self._source(second):
            return
        between = self._text[self._end(first) : self._start(second)]
        after = self._source(second) + between + self._source(first)
        self._add("swapped arguments", self._start(first), self._end(second), after, function)


def _name(func: ast.expr) -> str:
    """The last part of what is called."""
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _assigned(op: ast.operator) -> tuple[str, str]:
    old, new = OPERATORS[type(op)]
    return f"{old}=", f"{new}="


def mutations(file: str, text: str) -> list[Mutation]:
    """All mutations of a file; `changes` says which of them are valid Python."""
    finder = _Finder(file, text)
    finder.walk(ast.parse(text))
    counts: dict[tuple[str, ...], int] = {}
    found = []
    for one in finder.found:
        same = (one.function, one.kind, one.shown, one.before, one.after)
        counts[same] = counts.get(same, -1) + 1
        found.append(replace(one, ordinal=counts[same]))
    return found


def changes(one: Mutation, text: str) -> bool:
    """True if the mutated file is valid Python and its syntax tree is another."""
    try:
        return ast.dump(ast.parse(one.apply(text))) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def shuffled(file: str, text: str, seed: int) -> Iterator[Mutation]:
    """In a random order that changes as little as possible when the file does: kinds take turns, lines come once."""
    kinds: dict[str, list[Mutation]] = {}
    for one in sorted(mutations(file, text), key=lambda m: _rank(m.key, seed)):
        kinds.setdefault(one.kind, []).append(one)
    order = sorted(kinds, key=lambda kind: _rank(file + kind, seed))
    lines: set[int] = set()
    while any(kinds.values()):
        for kind in order:
            if kinds[kind]:
                one = kinds[kind].pop(0)
                if one.line not in lines and changes(one, text):
                    lines.add(one.line)
                    yield one


def _rank(words: str, seed: int) -> str:
    return blake2b(f"{seed} {words}".encode(), digest_size=8).hexdigest()


def sample(files: dict[str, str], count: int, seed: int) -> list[Mutation]:
    """`count` mutations, as evenly spread over the files (path -> text) as their sizes allow."""
    waiting = {file: shuffled(file, text, seed) for file, text in sorted(files.items())}
    chosen: list[Mutation] = []
    while waiting and len(chosen) < count:
        for file in sorted(waiting, key=lambda name: _rank(name, seed)):
            one = next(waiting[file], None)
            if one is None:
                del waiting[file]
            elif len(chosen) < count:
                chosen.append(one)
    return sorted(chosen, key=lambda m: (m.file, m.line))
