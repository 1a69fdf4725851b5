"""The full-size measurement runs at toy sizes."""

from __future__ import annotations

from typing import Any

import pytest

import by_path


@pytest.fixture(scope="module")
def script() -> Any:
    return by_path.experiment("full_size.run")


@pytest.mark.parametrize("variant", ["rows of 1", "eager"])
def test_toy_sizes(script: Any, variant: str) -> None:
    row = script.measure("flux", variant, tiny=True, device="cpu", batch=2, repeats=1)
    assert row["rows"] == 2
    assert row["ratio"] > 0
    assert row["estimated_bytes"] > row["weights_bytes"] > 0
