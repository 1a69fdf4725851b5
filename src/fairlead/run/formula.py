"""Formulas of rewards as text and as data: `a + 0.5*b` <-> {"+": [Part, {"*": [0.5, Part]}]}. Imports no torch.

    names and calls       aesthetic, clip_score(scale='hessel'); settings need their names
    + - * and brackets    between rewards and numbers; a/10 divides by a number
    min(a, b)             the worst of several
    zscore(a, mean=5.1, std=0.4)   or zscore(a, stats='FILE'), written by `fairlead score --stats FILE`
    veto(a, b > 0.5)      a where the condition holds, else no number; otherwise=-10 gives one
    rank_mean(a, b, c)    mean rank among the candidates of the run
    aesthetic_clip(w=0.5) a published formula by its name
    my.py:function        a function of your own; http://host:port/path an address that scores

`reward_text(parse_reward(text))` reads back as the same tree.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairlead.core import source
from fairlead.core.check import is_text, number_in_range
from fairlead.core.errors import FairleadError
from fairlead.run import registry
from fairlead.run.part import Part as Part

COMPARISONS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<="}
SIGNS = {"+": 1, "*": 2, "/": 2, **dict.fromkeys(COMPARISONS.values(), 0)}
"""The precedence of each operation; the higher one binds first."""
CALLS = ("min", "rank_mean", "zscore", "veto")
MANY, PAIR = range(1, 1 << 16), range(2, 3)
ARITIES = {"+": MANY, "*": MANY, "min": MANY, "rank_mean": MANY, "zscore": range(3, 4), "veto": range(2, 4), "/": PAIR}
ARITIES |= dict.fromkeys(COMPARISONS.values(), PAIR)
"""How many arguments an operation has."""
NUMBERS_FROM = {"zscore": 1, "veto": 2, "/": 1} | dict.fromkeys(COMPARISONS.values(), 1)
"""From which argument on they are numbers."""
UNREADABLE = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError)
"""What Python raises for text that is no expression, or one too deep or too large."""


def aesthetic_clip(w: float = 0.5) -> str:
    """w*aesthetic/10 + (1-w)*clip_cosine/0.5 with w in [0, 1] (Pereira Neto et al. 2025, arXiv 2511.03913).

    A term of weight 0 is left out.
    """
    number_in_range("aesthetic_clip.w", w, "[0, 1]")
    parts = ((w, "aesthetic/10"), (round(1 - w, 12), "clip_score(scale='cosine')/0.5"))
    return " + ".join(term if weight == 1 else f"{weight}*({term})" for weight, term in parts if weight)


NAMED: dict[str, Callable[..., str]] = {"aesthetic_clip": aesthetic_clip}
"""Formulas that have a name: the run records what they stand for."""
ADDRESS = re.compile(r"""(?<!['"\w])https?://[^\s'"(),]+""")
READS_OR_ASKS = ("file", "http", "judge", "pairwise_judge")
"""Rewards that execute a file or send pictures to a server."""
FILE = re.compile(r"""(?<!['"\w./~-])[\w./~][\w./~-]*\.py:[A-Za-z_]\w*(?!['"])""")


def parse_part(text: str, kind: str) -> Part:
    """`name` or `name(setting=value, ...)` -> Part, its name checked against the registry."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except UNREADABLE:
        raise FairleadError(f"{text!r:.200} must be a name or name(setting=value). Check its spelling.") from None
    return _part(node, text, kind)


def _part(node: ast.expr, text: str, kind: str) -> Part:
    if isinstance(node, ast.Name):
        return Part(registry.check(kind, node.id))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        settings = {word.arg or "": _literal(word, text) for word in node.keywords}
        return Part(registry.check(kind, node.func.id), settings)
    raise FairleadError(f"{text!r} must be a name or name(setting=value): settings need their names.")


def _literal(word: ast.keyword, text: str) -> Any:
    try:
        value = ast.literal_eval(word.value)
    except UNREADABLE:
        raise FairleadError(f"{word.arg} in {text!r:.200} is not a plain value. Use a number or a 'string'.") from None
    return plain_value(f"{word.arg} in {text!r:.200}", value)


def plain_value(name: str, value: Any, depth: int = 0) -> Any:
    """A value that a record can hold: text, numbers, True, False, None, and lists and tables of these."""
    if isinstance(value, list | tuple) and depth < 8:
        for one in value:
            plain_value(name, one, depth + 1)
        return value
    if isinstance(value, Mapping) and depth < 8 and all(isinstance(key, str) for key in value):
        for one in value.values():
            plain_value(name, one, depth + 1)
        return value
    whole = isinstance(value, int) and abs(value) < 2**63
    if whole or value is None or isinstance(value, float):
        return value
    if isinstance(value, str) and is_text(value):
        return value
    kind = "a number too large to hold" if isinstance(value, int) else f"{value!r:.60}"
    raise FairleadError(f"{name} is {kind}: must be text, a number, True, False, None, or a list or table of these.")


class Outside(FairleadError):
    """A formula names a file or an address where neither is allowed."""


def parse_reward(text: str, *, closed: bool = False) -> Any:
    """A formula -> its tree of Parts, numbers and {operation: [...]}.

    `closed`: refuse whatever names a file or an address before anything is opened. For texts of strangers.
    """
    if closed:
        _refuse_outside(text)
    code = ADDRESS.sub(lambda m: f"http(url={m.group()!r})", text)
    code = FILE.sub(lambda m: f"file(source={m.group()!r})", code)
    try:
        node = ast.parse(code.strip(), mode="eval").body
        tree = _tree(node, text)
        reward_text(tree)
    except UNREADABLE:
        raise FairleadError(
            f"Reward {text!r:.200} is not a formula. Write for example 'clip_score + 0.5*aesthetic'."
        ) from None
    if not reward_parts(tree):
        raise FairleadError(f"Reward {text!r} is only a number. Name at least one reward.")
    return tree


def _refuse_outside(text: str) -> None:
    """Raise if the text names a file or an address, decided by its syntax alone."""
    if found := ADDRESS.search(text) or FILE.search(text):
        raise Outside(f"{found.group()!r:.80} may not be named here: it is a file or an address.")
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except UNREADABLE:
        return  # the parser says what is wrong with it
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in READS_OR_ASKS:
            raise Outside(f"{node.id!r} may not be named here: it reads a file or asks a server.")
        if isinstance(node, ast.keyword) and node.arg == "stats":
            raise Outside(f"{node.arg!r} may not be set here: it names a file.")


def _tree(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        if abs(node.value) > 1e300:
            raise FairleadError(f"Reward {text!r:.200} has a number that is too large. Use a smaller one.")
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _times(-1.0, _tree(node.operand, text))
    if isinstance(node, ast.BinOp):
        return _binary(node, _tree(node.left, text), _tree(node.right, text), text)
    if isinstance(node, ast.Compare):
        return _condition(node, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return _call(node, node.func.id, text)
    name = getattr(node.func if isinstance(node, ast.Call) else node, "id", None)
    if name in NAMED:
        return _named(node, text)
    part = _part(node, text, "rewards")
    if part.name == "file" and "digest" not in part.settings:
        part = part.with_settings({"digest": source.digest(str(part.settings.get("source", "")))})
    return part


def _named(node: ast.expr, text: str) -> Any:
    """What a named formula stands for."""
    name, words = (node.func, node.keywords) if isinstance(node, ast.Call) else (node, [])
    assert isinstance(name, ast.Name)
    if isinstance(node, ast.Call) and node.args:
        raise FairleadError(f"{name.id} in {text!r} has a setting without its name: write {name.id}(w=0.5).")
    return parse_reward(
        registry.call(NAMED[name.id], name.id, {word.arg or "": _literal(word, text) for word in words})
    )


def _binary(node: ast.BinOp, left: Any, right: Any, text: str) -> Any:
    if isinstance(node.op, ast.Add | ast.Sub):
        right = right if isinstance(node.op, ast.Add) else _times(-1.0, right)
        return left + right if isinstance(left, float) and isinstance(right, float) else {"+": [left, right]}
    if isinstance(node.op, ast.Mult):
        return _times(left, right) if isinstance(left, float) else {"*": [left, right]}
    if isinstance(node.op, ast.Div):
        if not isinstance(right, float) or right == 0:
            raise FairleadError(f"Reward {text!r} divides by {reward_text(right)}: divide by a number other than zero.")
        return left / right if isinstance(left, float) else {"/": [left, right]}
    raise FairleadError(
        f"Reward {text!r} uses {type(node.op).__name__}: only +, -, *, / and {', '.join(CALLS)} make rewards."
    )


def _times(factor: float, tree: Any) -> Any:
    """factor * tree with numbers in front folded into one."""
    if isinstance(tree, float):
        return factor * tree
    if isinstance(tree, Mapping) and "*" in tree and isinstance(tree["*"][0], float):
        first, *rest = tree["*"]
        return {"*": [factor * first, *rest]}
    return {"*": [factor, tree]}


def _condition(node: ast.Compare, text: str) -> Any:
    right = _tree(node.comparators[0], text)
    if len(node.ops) != 1 or type(node.ops[0]) not in COMPARISONS or not isinstance(right, float):
        raise FairleadError(f"Reward {text!r} compares in a way that is not read: write 'reward > number'.")
    return {COMPARISONS[type(node.ops[0])]: [_tree(node.left, text), right]}


def _call(node: ast.Call, name: str, text: str) -> Any:
    parts = [_tree(argument, text) for argument in node.args]
    settings = {word.arg or "": _literal(word, text) for word in node.keywords}
    if name in ("min", "rank_mean"):
        if len(parts) < 2 or settings:
            raise FairleadError(f"{name} in {text!r} wants at least two rewards and no settings: write {name}(a, b).")
        return {name: parts}
    if name == "veto":
        otherwise = settings.pop("otherwise", None)
        extra = [] if otherwise is None else [float(otherwise)]
        if (
            len(parts) != 2
            or settings
            or not (isinstance(parts[1], Mapping) and set(parts[1]) <= set(SIGNS) - {"+", "*", "/"})
        ):
            raise FairleadError(f"veto in {text!r} wants a reward and a condition: write veto(a, b > 0.5).")
        return {name: [*parts, *extra]}
    if len(parts) != 1:
        raise FairleadError(f"zscore in {text!r} wants one reward: write zscore(a, mean=5.1, std=0.4) or stats='FILE'.")
    if set(settings) == {"stats"}:
        settings = _statistics(Path(str(settings["stats"])).expanduser(), reward_text(parts[0]))
    if set(settings) != {"mean", "std"} or not all(isinstance(v, int | float) for v in settings.values()):
        raise FairleadError(f"zscore in {text!r} wants mean and std, or stats='FILE' of recorded scores.")
    return {name: [parts[0], float(settings["mean"]), float(settings["std"])]}


def _statistics(path: Path, formula: str) -> dict[str, float]:
    """Mean and spread of one formula in a file that `fairlead score --stats` wrote."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FairleadError(
            f"{path} holds no statistics ({error}): write it with 'fairlead score --stats FILE'."
        ) from None
    if formula not in found:
        raise FairleadError(
            f"{path} has no statistics of {formula!r}, only of {', '.join(map(repr, found)) or 'nothing'}."
        )
    return {"mean": found[formula]["mean"], "std": found[formula]["std"]}


def from_data(tree: Any) -> Any:
    """The tree as it stands in JSON, with its Parts made. Raises a TypeError for what `parse_reward` never makes."""
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        return tree
    if not isinstance(tree, Mapping) or not tree:
        raise TypeError(f"{tree!r:.60} is not a formula")
    if "name" in tree:
        if not isinstance(tree["name"], str) or not isinstance(tree["settings"], Mapping):
            raise TypeError(f"{tree!r:.60} is not a name with settings")
        return Part(tree["name"], dict(tree["settings"]))
    ((operation, parts),) = tree.items()
    made = [from_data(part) for part in parts]
    lacking = made[NUMBERS_FROM.get(operation, len(made)) :]
    fits = len(made) in ARITIES.get(operation, ()) and all(isinstance(x, int | float) for x in lacking)
    if not fits:
        raise TypeError(f"{tree!r:.60} is not a formula")
    return {operation: made}


def reward_text(tree: Any) -> str:
    """The formula a person would write for the tree."""
    return _text(tree)[0]


def _text(tree: Any) -> tuple[str, int]:
    """Text and how tightly it binds: 3 for what needs no brackets anywhere."""
    if isinstance(tree, Part):
        inside = ", ".join(f"{k}={v!r}" for k, v in tree.settings.items())
        return (f"{tree.name}({inside})" if inside else tree.name), 3
    if not isinstance(tree, Mapping):
        return _number(tree), 3
    (op, parts), *_ = tree.items()
    if op == "zscore":
        return f"zscore({_text(parts[0])[0]}, mean={_number(parts[1])}, std={_number(parts[2])})", 3
    if op == "veto":
        words = [_text(p)[0] for p in parts[:2]] + [f"otherwise={_number(p)}" for p in parts[2:]]
        return f"veto({', '.join(words)})", 3
    if op not in SIGNS:
        return f"{op}({', '.join(_text(p)[0] for p in parts)})", 3
    bond = SIGNS[op]
    text = ""
    for i, part in enumerate(parts):
        sign = f" {op} " if bond < 2 else op
        if i and op == "+" and isinstance(part, float | int) and part < 0:
            sign = " - "
            part = -part
        elif i and op == "+" and isinstance(part, Mapping) and _negated(part) is not None:
            sign = " - "
            part = _negated(part)
        inner, tight = _text(part)
        limit = 1 if sign == " - " else bond
        loose = tight <= limit if i else tight < max(bond, 1)
        text += (sign if i else "") + (f"({inner})" if loose else inner)
    return text, bond


def _negated(tree: Mapping[str, Any]) -> Any:
    """x where the tree is -1 times x or a negative multiple, else None."""
    first, *rest = tree.get("*", [None])
    if not isinstance(first, float | int) or first >= 0 or len(rest) != 1:
        return None
    return rest[0] if first == -1 else {"*": [-first, *rest]}


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def reward_parts(tree: Any) -> list[Part]:
    """Every Part of the tree, in order."""
    if isinstance(tree, Part):
        return [tree]
    if isinstance(tree, Mapping):
        return [part for parts in tree.values() for inner in parts for part in reward_parts(inner)]
    return []
