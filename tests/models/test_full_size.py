"""The full-size measurement runs at toy sizes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "full_size" / "run.py"


@pytest.fixture(scope="module")
def script() -> Any:
    if not SCRIPT.is_file():
        pytest.skip("experiments are not part of this source tree")
    spec = importlib.util.spec_from_file_location("full_size", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variant", ["rows of 1", "eager"])
def test_toy_sizes(script: Any, variant: str) -> None:
    row = script.measure("flux", variant, tiny=True, device="cpu", batch=2, repeats=1)
    assert row["rows"] == 2
    assert row["ratio"] > 0
    assert row["estimated_bytes"] > row["weights_bytes"] > 0
