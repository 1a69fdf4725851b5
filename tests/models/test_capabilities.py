"""What a model can do is read from its configurations alone, and decides what is refused before loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairlead.core.errors import FairleadError
from fairlead.run import capabilities, models, registry
from fairlead.run.spec import make_spec


def bare(folder: Path, family: str, scheduler: dict[str, Any] | None = None, **denoiser: Any) -> str:
    """A folder with configurations and no weights."""
    part = capabilities.FAMILIES[family].denoiser if family in capabilities.FAMILIES else "transformer"
    for name, data in {
        "model_index.json": {"_class_name": family},
        f"{part}/config.json": denoiser,
        "scheduler/scheduler_config.json": scheduler or {},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(data))
    return str(folder)


@pytest.mark.parametrize(
    ("family", "scheduler", "denoiser", "expected"),
    [
        (
            "StableDiffusionPipeline",
            {"_class_name": "PNDMScheduler"},
            {},
            {"sites": 0, "sampler": "euler", "few_step": False, "guidance": "classifier-free"},
        ),
        (
            "StableDiffusionXLPipeline",
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
            {},
            {"sites": 0, "sampler": "ancestral", "few_step": True, "guidance": "none needed"},
        ),
        (
            "LatentConsistencyModelPipeline",
            {"_class_name": "LCMScheduler"},
            {"time_cond_proj_dim": 256},
            {"sampler": "consistency", "few_step": True, "guidance": "embedded"},
        ),
        ("StableDiffusion3Pipeline", {}, {"num_layers": 24}, {"sites": 23, "few_step": False}),
        (
            "FluxPipeline",
            {},
            {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True},
            {"sites": 57, "guidance": "embedded"},
        ),
        (
            "PixArtSigmaPipeline",
            {"_class_name": "DPMSolverMultistepScheduler"},
            {},
            {"sites": 0, "sampler": "dpmpp_2m"},
        ),
    ],
)
def test_abilities(family: str, scheduler: Any, denoiser: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    able = models.abilities(bare(tmp_path / "model", family, scheduler, **denoiser))
    assert able is not None
    assert able.adapter
    assert {k: able.as_dict()[k] for k in expected} == expected


def test_a_turbo_folder_brings_its_own_defaults(tmp_path: Path) -> None:
    name = bare(tmp_path / "sd3.5-large-turbo", "StableDiffusion3Pipeline", num_layers=38)
    assert models.defaults(name) == {"sampler": "euler", "batch": 0, "steps": 4, "settings": {"guidance_scale": 1.0}}
    spec = make_spec("a dog", model=name, reward="brightness", steps=30, defaults=models.defaults(name))
    assert "distilled" in models.warnings(spec)[0]


def test_what_a_scheduler_steps_like_is_the_default_sampler(tmp_path: Path) -> None:
    name = bare(tmp_path, "StableDiffusionXLPipeline", {"_class_name": "DPMSolverMultistepScheduler"})
    assert make_spec("a dog", model=name, defaults=models.defaults(name)).sampler == "dpmpp_2m"
    assert make_spec("a dog", model=name, sampler="euler", defaults=models.defaults(name)).sampler == "euler"


def test_interventions_need_joint_attention(tmp_path: Path) -> None:
    name = bare(tmp_path, "StableDiffusionXLPipeline")
    with pytest.raises(
        FairleadError, match=r"token_mean_damping edits joint attention and .* has none.*cross-attention"
    ):
        models.check(make_spec("a dog", model=name, reward="brightness", intervene="token_mean_damping"))
    models.check(make_spec("a dog", model=name, reward="brightness"))


def test_gradients_need_weights_that_stay(tmp_path: Path, register: Any) -> None:
    register("searches", "climb", "items:Climb")
    name = bare(tmp_path, "FluxPipeline")
    with pytest.raises(FairleadError, match="cpu_offload='model' moves the weights away"):
        models.check(make_spec("a dog", model=name, search="climb", settings={"model": {"cpu_offload": "model"}}))
    models.check(make_spec("a dog", model=name, search="climb", settings={"model": {"cpu_offload": "text"}}))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("StableDiffusionXLImg2ImgPipeline", "needs a picture at every call"),
        ("FluxKontextPipeline", "needs a picture at every call"),
        ("WanPipeline", "makes videos"),
        ("StableCascadeCombinedPipeline", "several networks in a row"),
        ("NobodyKnowsPipeline", "no adapter is registered"),
    ],
)
def test_other_families_are_refused_by_name(family: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=rf"{family}.*{reason}"):
        models.check(make_spec("a dog", model=bare(tmp_path, family), reward="brightness"))


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    name = bare(tmp_path, "StableDiffusionXLPipeline")
    spec = make_spec("a dog", model=name, reward="brightness", settings={"model": {"guidance_scal": 1}})
    with pytest.raises(FairleadError, match="Did you mean 'guidance_scale'"):
        models.build(spec, device="cpu", dtype="float32")


def test_every_adapter_has_its_family() -> None:
    for family in registry.BUILTIN["adapters"]:
        assert family in capabilities.FAMILIES
        assert models.adapter(family, "x").family == family
