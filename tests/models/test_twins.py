"""A scheduler without a twin steps itself, one that cannot is named at every run, and the page lists them all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest

import fairlead
import tiny_pipelines as tiny
from fairlead.core.twins import SCHEDULERS, no_twin, sampler_of
from fairlead.models.sd import StableDiffusion

DDIM = {**tiny.SCALED, "steps_offset": 1, "clip_sample": False}
NOT_MEASURED = ("DPMSolverSDEScheduler", "FlowMatchHeunDiscreteScheduler", "SCMScheduler")
"""A package is missing, or another family's pipeline uses it; its own law compares the latents."""
RUN: dict[str, Any] = {"reward": "brightness", "budget": {"nfe": 4}, "steps": 2, "batch": 2}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny.saved(tmp_path_factory.mktemp("sd"), tiny.sd, diffusers.DDIMScheduler(**DDIM))
    return diffusers.StableDiffusionPipeline.from_pretrained(folder)


def run(pipe: Any, scheduler: str, **words: Any) -> Any:
    pipe.scheduler = getattr(diffusers, scheduler).from_config({**DDIM, **words.pop("config", {})})
    with warnings.catch_warnings(record=True):
        return fairlead.run("a dog", model=pipe, **RUN, **words)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "FlowMapEulerDiscreteScheduler"])
def test_a_scheduler_that_is_replaced_is_a_warning(scheduler: str, pipe: Any) -> None:
    """PNDM with its Runge-Kutta start cannot be cut by sample; a scheduler that is not listed is unknown."""
    model = StableDiffusion(pipe)
    pipe.scheduler = type(scheduler, (diffusers.PNDMScheduler,), {}).from_config({**DDIM, "skip_prk_steps": False})
    (sentence,) = model.warnings("a dog", "euler")
    assert sentence.startswith(f"{scheduler} has no twin: the sampler euler takes its steps")
    assert not model.warnings("a dog", "ancestral"), "somebody chose that sampler"
    assert sampler_of(scheduler, pipe.scheduler.config) == "euler"
    model.release()


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "LMSDiscreteScheduler", "TCDScheduler"])
def test_without_a_twin_the_scheduler_steps_itself(scheduler: str, pipe: Any) -> None:
    result = run(pipe, scheduler)
    assert not result.warnings
    assert result.spec.sampler == "scheduler"
    assert run(pipe, scheduler, sampler="euler").spec.sampler == "euler"


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_twin_is_no_warning(scheduler: str, pipe: Any) -> None:
    result = run(pipe, scheduler)
    assert not result.warnings
    assert result.spec.sampler == SCHEDULERS[scheduler][0], (
        "the live object's class counts, not where its settings are from"
    )


@pytest.mark.parametrize(
    ("scheduler", "setting"),
    [
        ("DDIMScheduler", {"clip_sample": True}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"euler_at_final": True}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DDPMScheduler", {"variance_type": "fixed_large"}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_settings_that_leave_the_twin(scheduler: str, setting: dict[str, Any]) -> None:
    (name,) = setting
    assert no_twin(scheduler, setting).startswith(f"{scheduler} with {name}=")
    assert sampler_of(scheduler, setting) == "scheduler"
    assert sampler_of(scheduler, {}) == SCHEDULERS[scheduler][0]


def test_the_page_lists_every_scheduler() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text()
    for name, (nearest, _) in SCHEDULERS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name.removesuffix('Scheduler')} |"))
        _, usual, gap, near, _ = (cell.strip() for cell in row.split("|")[1:-1])
        assert (usual, near) == (sampler_of(name, {"skip_prk_steps": True}), nearest)
        assert gap in ("0", "1", "not measured"), "what a run uses is the same up to rounding"
        assert gap != "not measured" or name in NOT_MEASURED
