"""A small stand-in of ComfyUI: the part of its V3 schema that the nodes use, as its guide describes it.

It is not ComfyUI. It checks what ComfyUI checks before a node runs: known inputs, their types, ranges and options, and
that a node returns as many values as it has outputs.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest


class InterruptProcessingException(Exception):
    """What ComfyUI raises when its user presses the button."""


@dataclass
class Wanted:
    """An input of a schema."""

    kind: type | None
    id: str
    default: Any = None
    optional: bool = False
    min: float | None = None
    max: float | None = None
    step: float | None = None
    options: list[str] | None = None
    multiline: bool = False
    control_after_generate: bool = False
    tooltip: str = ""

    def check(self, value: Any) -> None:
        if self.options is not None:
            assert value in self.options, f"{self.id}: {value!r} is not in the list"
        if self.min is not None:
            assert value >= self.min, f"{self.id}: {value!r} is smaller than {self.min}"
        if self.max is not None:
            assert value <= self.max, f"{self.id}: {value!r} is larger than {self.max}"
        if self.kind is not None:
            assert isinstance(value, self.kind), f"{self.id}: {value!r}"


@dataclass
class Made:
    """An output of a schema."""

    id: str = ""
    is_output_list: bool = False
    tooltip: str = ""


def kind_of(type_: type | None) -> types.SimpleNamespace:
    return types.SimpleNamespace(Input=lambda id, **words: Wanted(type_, id, **words), Output=Made)


@dataclass
class Schema:
    """As `io.Schema`."""

    node_id: str
    display_name: str
    category: str
    inputs: list[Wanted]
    outputs: list[Made]
    description: str = ""


class NodeOutput:
    """As `io.NodeOutput`."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class ComfyNode:
    """As `io.ComfyNode`."""

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    async def execute(cls, **values: Any) -> NodeOutput:
        raise NotImplementedError


class ComfyExtension:
    """As `ComfyExtension`."""


@dataclass
class Comfy:
    """What the tests see of it."""

    progress: list[tuple[int, int, Any]] = field(default_factory=list)
    is_interrupted: Callable[[], bool] = lambda: False

    def run(self, node: Any, **values: Any) -> tuple[Any, ...]:
        """Check the inputs as ComfyUI does, and execute the node."""
        return asyncio.run(self.execute(node, **values))

    async def execute(self, node: Any, **values: Any) -> tuple[Any, ...]:
        schema = node.define_schema()
        known = {one.id: one for one in schema.inputs}
        assert set(values) <= set(known), set(values) - set(known)
        full = {id: one.default for id, one in known.items() if one.default is not None} | values
        missing = {id for id, one in known.items() if not one.optional} - set(full)
        assert not missing, missing
        for id, value in full.items():
            known[id].check(value)
        out = await node.execute(**full)
        assert len(out.values) == len(schema.outputs)
        assert all(isinstance(v, list) for v, o in zip(out.values, schema.outputs, strict=True) if o.is_output_list)
        return out.values


def install(monkeypatch: pytest.MonkeyPatch) -> Comfy:
    """Put the stand-in where the nodes import ComfyUI from."""
    comfy = Comfy()
    io = types.SimpleNamespace(ComfyNode=ComfyNode, Schema=Schema, NodeOutput=NodeOutput)
    kinds = {"String": str, "Int": int, "Float": float, "Combo": str, "Image": None}
    vars(io).update({name: kind_of(kind) for name, kind in kinds.items()})

    def throw_exception_if_processing_interrupted() -> None:
        if comfy.is_interrupted():
            raise InterruptProcessingException

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
            comfy.progress.append((value, total, preview))

    def module(name: str, **values: Any) -> None:
        found = types.ModuleType(name)
        vars(found).update(values)
        monkeypatch.setitem(sys.modules, name, found)

    module("comfy_api")
    module("comfy_api.latest", io=io, ComfyExtension=ComfyExtension)
    module("comfy")
    module("comfy.utils", ProgressBar=ProgressBar)
    check = throw_exception_if_processing_interrupted
    module("comfy.model_management", throw_exception_if_processing_interrupted=check)
    return comfy
