"""Code outside the package, as modules: experiments, recipes and other test files."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load(path: str) -> ModuleType:
    """The file at this path of the repository, run anew."""
    name = path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def experiment(name: str) -> ModuleType:
    """A module of `experiments`; its tests are skipped in a source tree without that folder."""
    if not (ROOT / "experiments").is_dir():
        pytest.skip("experiments are not part of this source tree")
    return importlib.import_module(f"experiments.{name}")


@contextmanager
def recipe(name: str, of: str = "pocket") -> Iterator[ModuleType]:
    """A file of recipes/OF, which imports its neighbours by their bare names; those are forgotten afterwards."""
    folder = ROOT / "recipes" / of
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for new in set(sys.modules) - before:
            if (folder / f"{new}.py").is_file():
                del sys.modules[new]
