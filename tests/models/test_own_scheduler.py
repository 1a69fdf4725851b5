"""The pipeline's own scheduler takes the steps: the pipeline's latents, and a memory by sample."""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_law import PROMPTS, rendered, slopes
from torch import Tensor

import fairlead
import tiny_pipelines as tiny
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.samplers import PreviousStep, dpmpp_2m, euler
from fairlead.core.sampling import sample
from fairlead.core.steering import Steering, Step
from fairlead.core.twins import SCHEDULERS
from fairlead.models.sana import Sana
from fairlead.models.sd import StableDiffusion
from fairlead.models.sd3 import StableDiffusion3
from fairlead.run.store import Store
from fairlead.testing import resume_laws
from fairlead.testing.runs import small_spec

KARRAS = {"use_karras_sigmas": True}
PLMS = {"skip_prk_steps": True, "steps_offset": 1}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
DISCRETE: list[tuple[str, dict[str, Any]]] = [
    ("PNDM", PLMS),
    ("PNDM", {**PLMS, "prediction_type": "v_prediction"}),
    ("UniPCMultistep", {}),
    ("UniPCMultistep", KARRAS),
    ("DEISMultistep", {}),
    ("DPMSolverSinglestep", {}),
    ("LMSDiscrete", {}),
    ("KDPM2Discrete", {}),
    ("KDPM2AncestralDiscrete", {"timestep_spacing": "trailing"}),
    ("HeunDiscrete", {"prediction_type": "v_prediction"}),
    ("TCD", {}),
    ("LCM", {}),
    ("DDPM", {"clip_sample": True}),
    ("DDIM", {"clip_sample": True}),
    ("EulerDiscrete", {"timestep_spacing": "leading"}),
    ("DPMSolverMultistep", {"solver_order": 3}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
]
RECTIFIED: list[tuple[str, dict[str, Any]]] = [
    ("FlowMatchHeunDiscrete", {"shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, "stochastic_sampling": True}),
    ("FlowMatchLCM", {"shift": 3.0}),
    ("UniPCMultistep", FLOW),
    ("DEISMultistep", FLOW),
    ("DPMSolverMultistep", FLOW),
]
RUN: dict[str, Any] = {"reward": "brightness", "budget": {"nfe": 24}, "steps": 6, "batch": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, str] = {}

    def get(scheduler: str, settings: dict[str, Any], make: Any = tiny.sd) -> str:
        name = f"{scheduler}{settings}{make.__name__}"
        if name not in made:
            known = {**tiny.SCALED, **settings} if make is tiny.sd else settings
            levels = getattr(diffusers, f"{scheduler}Scheduler")(**known)
            made[name] = tiny.saved(tmp_path_factory.mktemp("own"), make, levels)
        return made[name]

    return get


def same(model: Any, where: str, monkeypatch: pytest.MonkeyPatch, steps: int = 6, **call: Any) -> None:
    """The pipeline's latents from the same noise, with as many rows through the network as were charged."""
    sampler, meter = model.own_sampler(), Meter()
    x, mine = rendered(model, sampler, steps, PROMPTS, meter=meter)
    model.release()
    pipe = diffusers.DiffusionPipeline.from_pretrained(where)
    pipe.set_progress_bar_config(disable=True)
    keys = tuple(Key.root(0).fold("candidate", b) for b in range(len(PROMPTS)))
    drawn = iter([normals(tuple(key.fold("step", i) for key in keys), *model.latent) for i in range(steps)])
    if sampler.stochastic:
        where_drawn = sys.modules[type(pipe.scheduler).__module__]
        monkeypatch.setattr(where_drawn, "randn_tensor", lambda *args, **words: next(drawn))
    seen: list[int] = []
    net = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    net.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(len(kwargs.get("hidden_states", args[0] if args else None))),
        with_kwargs=True,
    )
    height, width = model.size
    theirs = pipe(
        prompt=PROMPTS,
        latents=x.clone(),
        num_inference_steps=steps,
        output_type="latent",
        height=height,
        width=width,
        **call,
    ).images
    assert meter.spent.forwards == sum(seen)
    gap = float((mine - theirs).abs().max())
    assert gap <= 5e-4 * float(theirs.abs().max()), f"latents differ by {gap:.3g}"


@pytest.mark.parametrize(("scheduler", "settings"), DISCRETE)
def test_is_the_pipeline(
    scheduler: str, settings: dict[str, Any], folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder(scheduler, settings)
    same(StableDiffusion(where, guidance_scale=3.0), where, monkeypatch, guidance_scale=3.0)


@pytest.mark.parametrize(("scheduler", "settings"), RECTIFIED)
@pytest.mark.parametrize("family", ["sd3", "sana"])
def test_rectified_flow_is_the_pipeline(
    scheduler: str, settings: dict[str, Any], family: str, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, adapter = {"sd3": (tiny.sd3, StableDiffusion3), "sana": (tiny.sana, Sana)}[family]
    where = folder(scheduler, settings, make)
    own = {"use_resolution_binning": False} if family == "sana" else {}
    call = {"guidance_scale": 3.0, "max_sequence_length": 12}
    same(adapter(where, **call), where, monkeypatch, **call, **own)


@pytest.mark.parametrize("scheduler", ["UniPCMultistep", "PNDM", "LMSDiscrete", "HeunDiscrete"])
def test_a_run_draws_the_pipelines_own_picture(scheduler: str, folder: Any) -> None:
    """What a user sees: no sampler is named, no warning appears, and candidate 0 is the pipeline's picture."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder(scheduler, PLMS if scheduler == "PNDM" else {}))
    pipe.set_progress_bar_config(disable=True)
    latents = Key.root(3).normal(1, 4, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = fairlead.run("a red apple", model=pipe, latents=latents, **RUN)
    assert result.spec.sampler == "scheduler"
    own = pipe("a red apple", latents=latents, num_inference_steps=6, guidance_scale=1.0, output_type="np").images[0]
    mine = np.array(Image.open(result.baseline.path), dtype=int)
    assert np.abs(mine - (own * 255).round().astype(int)).max() <= 1


def test_the_users_scheduler_is_left_alone(folder: Any) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder("UniPCMultistep", {}))
    before = copy.deepcopy({name: str(value) for name, value in vars(pipe.scheduler).items()})
    fairlead.run("a red apple", model=pipe, **RUN)
    assert {name: str(value) for name, value in vars(pipe.scheduler).items()} == before


@pytest.mark.parametrize("scheduler", ["UniPCMultistep", "PNDM", "LMSDiscrete", "DEISMultistep", "DPMSolverSinglestep"])
def test_memory_follows_the_samples(scheduler: str, folder: Any) -> None:
    """Samples that change places in the middle go on as if they had not, and a sample may be copied."""
    model = StableDiffusion(folder(scheduler, PLMS if scheduler == "PNDM" else {}), guidance_scale=1.0)
    levels = model.levels(6)
    sampler = model.own_sampler().down(levels)
    x = Key.root(1).normal(3, *model.latent)

    def walk(order: Tensor, seen: list[Any]) -> Tensor:
        y, previous = x, None
        for i in range(6):
            if i == 3:
                assert previous is not None
                y, previous = y[order], previous.take(order)
                seen.append(previous)
            x0 = torch.tanh(y + i)
            y, state = sampler.moved(lambda z, at: torch.tanh(z), y, x0, levels[i], levels[i + 1], x, previous)
            previous = PreviousStep(x0, levels[i], state)
        return y

    order, seen = torch.tensor([2, 0, 1, 1]), []
    assert torch.equal(walk(torch.arange(3), [])[order], walk(order, seen))
    assert torch.equal(walk(torch.arange(3), [])[order], walk(order, seen)), "a memory is not written to"


class Shuffled(Steering):
    """Reverses the samples after step 2 without saying so: the history must be dropped."""

    decides = "rows"

    def __call__(self, step: Step) -> Step:
        return step.then(lambda x: x.flip(0)) if step.index == 2 else step


@pytest.mark.parametrize("scheduler", ["UniPCMultistep", "PNDM", "LMSDiscrete"])
def test_without_memory_it_starts_again(scheduler: str, folder: Any) -> None:
    """A warm-up that works only at the start is replaced by the nearest sampler."""
    model = StableDiffusion(folder(scheduler, PLMS if scheduler == "PNDM" else {}), guidance_scale=1.0)
    meter, keys = Meter(), tuple(Key.root(0).fold("candidate", i) for i in range(2))
    model.meter(meter)
    x = normals(keys, *model.latent)
    levels = model.levels(6)
    with torch.no_grad(), meter.grant(INFINITE):
        cond = model.encode(["a red apple"] * 2)
        one = sample(model, model.own_sampler(), x, cond, levels, keys, meter, steering=Shuffled())
        spent = meter.spent.nfe
        half = sample(model, model.own_sampler(), x, cond, levels, keys, meter, steering=Stop())
        rest = {"UniPCMultistep": None, "PNDM": euler, "LMSDiscrete": dpmpp_2m}[scheduler]
        other = half.flip(0)
        if rest is not None:
            other = sample(model, rest, other, cond, levels[3:], keys, meter)
            assert torch.allclose(one, other, atol=1e-5)
    assert spent == 2 * (7 if scheduler == "PNDM" else 6)
    assert one.isfinite().all()


class Stop(Steering):
    """Ends after step 2."""

    def __call__(self, step: Step) -> Step:
        return replace(step, last=step.index == 2)


def test_other_levels_are_stepped_by_the_nearest_sampler(folder: Any) -> None:
    """A draft that skips levels is the same as with that sampler."""
    model = StableDiffusion(folder("UniPCMultistep", {}), guidance_scale=1.0)
    levels = model.levels(6)
    skipping = [levels[0], levels[2], levels[5], levels[6]]
    meter, keys = Meter(), (Key.root(0),)
    model.meter(meter)
    x = normals(keys, *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        cond = model.encode(["a red apple"])
        both = [sample(model, s, x, cond, skipping, keys, meter) for s in (model.own_sampler(), dpmpp_2m)]
    assert torch.equal(*both)


@pytest.mark.parametrize("scheduler", ["UniPCMultistep", "PNDM", "KDPM2AncestralDiscrete"])
def test_resume(scheduler: str, folder: Any, tmp_path: Path) -> None:
    where = folder(scheduler, PLMS if scheduler == "PNDM" else {})
    resume_laws(small_spec(model=where, sampler="scheduler", steps=4, guidance_scale=1.0), tmp_path)


@pytest.mark.parametrize(("scheduler", "calls"), [("HeunDiscrete", 11), ("PNDM", 7), ("UniPCMultistep", 6)])
def test_every_call_is_priced(scheduler: str, calls: int, folder: Any, tmp_path: Path) -> None:
    where = folder(scheduler, PLMS if scheduler == "PNDM" else {})
    words = {**RUN, "budget": {"nfe": 3 * calls + 1}, "out": tmp_path / "run"}
    result = fairlead.run("a red apple", model=where, **words)
    assert len(result.candidates) == 3
    assert Store.open(tmp_path / "run").spent().nfe == 3 * calls


def test_a_captured_picture_does_not_hold_what_it_remembers(folder: Any, tmp_path: Path) -> None:
    """From the noise the finished picture is the plain one; from the captured state it would be another."""
    words = {**RUN, "model": folder("UniPCMultistep", {}), "draft": "peek(2)", "finals": 1, "budget": {"nfe": 40}}
    with pytest.raises(FairleadError, match="--exact"):
        fairlead.run("a red apple", **words, out=tmp_path / "state")
    result = fairlead.run("a red apple", **words, exact=True, out=tmp_path / "noise")
    assert result.candidates["refines"].notna().any()


STEERINGS: dict[str, dict[str, Any]] = {
    "lidar": {"n": 2, "steps": 2},
    "particle_guidance": {},
    "dfs": {"retries": 1},
    "demon": {"k": 2, "beta": 0.0},
    "svdd": {"children": 2, "block": 1},
}


@pytest.mark.parametrize("steering", STEERINGS)
def test_steerings(steering: str, folder: Any) -> None:
    scheduler = "KDPM2AncestralDiscrete" if steering == "svdd" else "UniPCMultistep"
    words = {**RUN, "steps": 4, "budget": {"nfe": 150}, "group": 2, "steer": steering}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fairlead.run("a dog", model=folder(scheduler, {}), settings={steering: STEERINGS[steering]}, **words)
    assert len(found.candidates) >= 2
    assert np.isfinite(found.candidates["reward"]).all()


@pytest.mark.parametrize("scheduler", ["UniPCMultistep", "PNDM", "LMSDiscrete"])
def test_slopes(scheduler: str, folder: Any) -> None:
    model = StableDiffusion(folder(scheduler, PLMS if scheduler == "PNDM" else {}), guidance_scale=2.0)
    slopes(model, model.own_sampler(), steps=4)


def test_what_cannot_step_is_named(folder: Any) -> None:
    model = StableDiffusion(folder("PNDM", {"skip_prk_steps": False}))
    with pytest.raises(FairleadError, match=r"PNDMScheduler cannot take the steps of a run.*--sampler euler"):
        model.own_sampler()
    with pytest.raises(FairleadError, match="'scheduler' needs a diffusers pipeline"):
        fairlead.run("a red apple", model="mixture", sampler="scheduler", budget={"nfe": 8}, steps=2)


def test_the_law_covers_every_scheduler() -> None:
    tested = {f"{name}Scheduler" for name, _ in DISCRETE + RECTIFIED}
    others = {"EulerAncestralDiscreteScheduler", "DPMSolverSDEScheduler", "SCMScheduler"}
    assert set(SCHEDULERS) - tested <= others
