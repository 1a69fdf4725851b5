"""Every registered item with its first sentence and its settings, read from its source code. Imports no torch."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairlead.core.errors import FairleadError
from fairlead.run import registry


@dataclass(frozen=True)
class Item:
    """One registered name."""

    name: str
    what: str
    """One line: of a method that of its file, with the source, of others that of its docstring; empty if unreadable."""
    settings: tuple[tuple[str, str | None], ...]
    """Name and default of what `--set name.setting=value` accepts; None for what has to be given."""
    package: str
    about: str = ""
    """The docstrings of its file and of itself."""
    unit: str = ""
    """What a point means, of a reward."""


METHODS = {"searches", "steerings", "interventions"}
"""Kinds of which every file holds one item and begins with what it is and where it was published."""

GIVEN = {"rewards"}
"""Kinds whose items take no argument from the run: a setting without a default must be chosen by the user."""


def items(kind: str) -> list[Item]:
    """Everything registered as `kind`, built-ins and third parties alike, without importing any of it."""
    return [_item(name, entry, kind in METHODS, kind in GIVEN) for name, entry in sorted(registry.table(kind).items())]


def _item(name: str, entry: str, method: bool, given: bool) -> Item:
    module, _, attribute = entry.partition(":")
    tree = _tree(module)
    found = None if tree is None else _definition(tree, attribute)
    if tree is None or found is None:
        return Item(name, "", (), module.partition(".")[0])
    doc = ast.get_docstring(found) or ""
    file = ast.get_docstring(tree) or ""
    first = (file if method and file else doc).partition("\n\n")[0]
    sentence = " ".join(first.split())
    about = f"{file}\n\n{doc}" if method else doc
    settings = [*(_required(found) if given else ()), *_settings(found, _constants(tree))]
    return Item(name, sentence, tuple(settings), module.partition(".")[0], about.strip(), _unit(found))


def _unit(node: ast.ClassDef | ast.FunctionDef) -> str:
    """The text that a class body gives to `unit`."""
    assigned = [n for n in node.body if isinstance(n, ast.Assign | ast.AnnAssign) and isinstance(n.value, ast.Constant)]
    for n in assigned:
        target = n.target if isinstance(n, ast.AnnAssign) else n.targets[0]
        if isinstance(target, ast.Name) and target.id == "unit":
            return str(n.value.value)  # type: ignore[union-attr]
    return ""


def _tree(module: str) -> ast.Module | None:
    path = _source(module)
    if path is None:
        return None
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _constants(tree: ast.Module) -> dict[str, str]:
    """Names that a default may stand for."""
    return {
        n.targets[0].id: ast.unparse(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and isinstance(n.value, ast.Constant)
    }


def _definition(tree: ast.Module, attribute: str) -> ast.ClassDef | ast.FunctionDef | None:
    return next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute), None)


def _source(module: str) -> Path | None:
    """The file of a module. Only the top package is looked up, which executes nothing."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for root in spec.submodule_search_locations or ():
        path = Path(root).joinpath(*rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _required(node: ast.ClassDef | ast.FunctionDef) -> list[tuple[str, None]]:
    """Arguments of `__init__` without a default."""
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return []
    first = init.args.args[1 : len(init.args.args) - len(init.args.defaults)]
    named = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    return [(a.arg, None) for a in [*first, *(a for a, default in named if default is None)]]


def _settings(node: ast.ClassDef | ast.FunctionDef, constants: Mapping[str, str]) -> list[tuple[str, str]]:
    """Arguments with a default; what has none is given by the run, tensors by the method itself."""
    if isinstance(node, ast.FunctionDef):
        return []
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        arguments = init.args.args
        defaults = init.args.defaults
        late = zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
        named = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        every = [(a.arg, ast.unparse(d)) for a, d in [*late, *named] if d is not None]
    else:
        every = [
            (n.target.id, _default(n.value))
            for n in node.body
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.value and _is_typed(n)
        ]
    return [(name, constants.get(default, default)) for name, default in every if default and not name.startswith("_")]


def _default(value: ast.expr) -> str:
    """A default as written; of a dataclass's `field(...)` its own, empty where it is no setting."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field"):
        return ast.unparse(value)
    words = {word.arg: ast.unparse(word.value) for word in value.keywords}
    default = words.get("default") or words.get("default_factory", "")
    return "" if "False" in (words.get("init"), words.get("repr")) else default


def _is_typed(node: ast.AnnAssign) -> bool:
    """True of a field that a person can type: no class variable, no tensor, unless a word is allowed in its place."""
    kind = ast.unparse(node.annotation)
    return "ClassVar" not in kind and ("Tensor" not in kind or kind.startswith("str"))


def runs(root: Path) -> list[Path]:
    """Run folders directly below `root`, the latest first."""
    try:
        return sorted((path.parent for path in root.glob("*/run.sqlite")), key=lambda p: p.name, reverse=True)
    except OSError as error:
        raise FairleadError(f"{root} cannot be read ({error.strerror}). Check its permissions.") from error
