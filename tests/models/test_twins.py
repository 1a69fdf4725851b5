"""A scheduler without a twin is named at every run, and the page lists them all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest

import fairlead
import tiny_pipelines as tiny
from fairlead.core.twins import SCHEDULERS, no_twin

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}
RUN: dict[str, Any] = {"reward": "brightness", "budget": {"nfe": 4}, "steps": 2, "batch": 2}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny.saved(tmp_path_factory.mktemp("sd"), tiny.sd, diffusers.DDIMScheduler(**DDIM))
    return diffusers.StableDiffusionPipeline.from_pretrained(folder)


def run(pipe: Any, scheduler: str, **words: Any) -> Any:
    pipe.scheduler = getattr(diffusers, scheduler).from_config({**DDIM, **words.pop("config", {})})
    with warnings.catch_warnings(record=True):
        return fairlead.run("a dog", model=pipe, **RUN, **words)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler"])
def test_no_twin_is_a_warning(scheduler: str, pipe: Any) -> None:
    (sentence,) = run(pipe, scheduler).warnings
    assert sentence.startswith(f"{scheduler} has no twin")
    assert not run(pipe, scheduler, sampler="ancestral").warnings, "somebody chose that sampler"


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_twin_is_no_warning(scheduler: str, pipe: Any) -> None:
    result = run(pipe, scheduler)
    assert not result.warnings
    assert result.spec.sampler == SCHEDULERS[scheduler][0], (
        "the live object's class counts, not where its settings are from"
    )


def test_settings_that_leave_the_twin(pipe: Any) -> None:
    (sentence,) = run(pipe, "DDIMScheduler", config={"clip_sample": True}).warnings
    assert sentence.startswith("DDIMScheduler with clip_sample=True has no twin")
    assert no_twin("DPMSolverMultistepScheduler", {"solver_order": 3})


def test_the_page_lists_every_scheduler() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text()
    for name, (sampler, exact) in SCHEDULERS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name.removesuffix('Scheduler')} |"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[1:3] == [sampler, "yes" if exact else "no"]
        assert not exact or cells[3] in ("0", "1", "not measured"), "a twin is the same up to rounding"
