"""Errors: exit codes, and suggestions for unknown names; what is known of a device."""

from __future__ import annotations

import pytest
import torch

from fairlead.core.device import free
from fairlead.core.errors import FairleadError, OutOfMemory, RewardError, StoreError, nearest, unknown


def test_exit_codes() -> None:
    """What scripts may rely on."""
    assert [e.exit_code for e in (FairleadError, OutOfMemory, StoreError, RewardError)] == [2, 2, 3, 4]


def test_free_memory_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 8))
    assert free(torch.device("cuda")) == 3
    assert free(torch.device("cpu")) is None


def test_only_what_is_close_is_suggested() -> None:
    assert nearest("pocket-trubo", ["pocket", "pocket-turbo"]) == "pocket-turbo"
    assert nearest("nice", ["file", "human"]) is None
    assert nearest(3, ["3"]) is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (unknown("model", "lider", ["lidar", "demon"]), "Model 'lider' is unknown. Did you mean 'lidar'?"),
        (unknown("model", "x", ["b", "a"]), "Model 'x' is unknown. Known names: a, b."),
        (unknown("setting", "x", [], of="lidar"), "Setting 'x' of lidar is unknown. There are none."),
        (
            unknown("lidar.model", "x", [], see="fairlead list"),
            "lidar.model 'x' is unknown. There are none. See 'fairlead list'.",
        ),
    ],
)
def test_an_unknown_name_is_one_sentence(error: FairleadError, sentence: str) -> None:
    assert str(error) == sentence
