"""Tiny checkpoints, made once; nothing here reaches for the network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    return tiny.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    return tiny.bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Published heads and their golden vectors, where somebody has put them."""
    for root in (os.environ.get("FAIRLEAD_SHARED"), *(parent / "shared" for parent in REPOSITORY.parents)):
        if root and (Path(root) / "data").is_dir():
            return Path(root) / "data"
    pytest.skip("the published data is not here: set FAIRLEAD_SHARED")
