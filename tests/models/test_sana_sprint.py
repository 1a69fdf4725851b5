"""Sana-Sprint: the circle of its scheduler, embedded guidance, and its own times for two steps."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from pipeline_law import PROMPTS, same_as_pipeline, slopes

import fairlead
import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError
from fairlead.core.samplers import consistency
from fairlead.models.sana_sprint import SanaSprint
from fairlead.testing import model_laws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("sana_sprint")
    return tiny.saved(where, tiny.sana, diffusers.SCMScheduler(), sprint=True, guidance_embeds=True)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("call", [{"guidance_scale": 6.0}, {"guidance_scale": 4.5, "max_timesteps": 1.5}])
def test_is_the_pipeline(steps: int, call: dict[str, Any], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SanaSprint(folder, max_sequence_length=12, **call)
    pipe = diffusers.SanaSprintPipeline.from_pretrained(folder)
    own = {} if steps == 2 else {"intermediate_timesteps": None}
    same_as_pipeline(
        model,
        pipe,
        consistency,
        steps,
        PROMPTS,
        monkeypatch,
        max_sequence_length=12,
        use_resolution_binning=False,
        **call,
        **own,
    )


def test_a_run_takes_its_sampler_and_steps(folder: str) -> None:
    result = fairlead.run("a dog", model=folder, reward="brightness", budget={"nfe": 4}, batch=2)
    assert (result.spec.sampler, result.spec.steps) == ("consistency", 2)
    assert not result.warnings
    with pytest.raises(FairleadError, match="SCMScheduler cannot take the steps"):
        fairlead.run("a dog", model=folder, sampler="scheduler", reward="brightness", budget={"nfe": 4}, batch=2)


def test_times_in_the_wrong_order(folder: str) -> None:
    with pytest.raises(FairleadError, match=r"intermediate_timesteps < max_timesteps <= 1\.5708"):
        SanaSprint(folder, intermediate_timesteps=1.6)


def test_laws(folder: str) -> None:
    model_laws(SanaSprint(folder, max_sequence_length=12, width=24))


def test_slopes(folder: str) -> None:
    slopes(SanaSprint(folder, max_sequence_length=12), consistency)
