"""Where a model comes from: a live pipeline left as found, a checkpoint, swaps and LoRA, errors in one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import fairlead
import single_file
import tiny_pipelines as tiny
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key, normals
from fairlead.core.model import whole
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.run import hub, models
from fairlead.run.spec import make_spec
from fairlead.run.store import Store

EULER = {**tiny.SCALED, "timestep_spacing": "leading", "steps_offset": 1}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.saved(tmp_path_factory.mktemp("sdxl"), tiny.sdxl, diffusers.EulerDiscreteScheduler(**EULER))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.saved(tmp_path_factory.mktemp("sd3"), tiny.sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def state(pipe: Any) -> list[Any]:
    out: list[Any] = [json.dumps(dict(pipe.scheduler.config), default=str), sorted(vars(pipe.scheduler))]
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            out += [
                (name, k, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
                for k, m in part.named_modules()
            ]
            out += [(name, k, p.requires_grad, p.dtype, float(p.detach().sum())) for k, p in part.named_parameters()]
    return out


def test_a_live_pipeline_is_left_as_it_was_found(sdxl: str) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.conv_in.train()
    pipe.unet.conv_in.weight.requires_grad_(False)
    x = torch.ones(1, 4, 8, 8)
    picture = pipe("a dog", latents=x, num_inference_steps=2, output_type="latent").images
    before = state(pipe)
    result = fairlead.run(
        "a red apple",
        model=pipe,
        reward="brightness",
        budget={"nfe": 8},
        steps=2,
        batch=2,
        settings={"model": {"guidance_scale": 3.0, "height": 24}},
    )
    assert len(result.candidates) == 4
    assert state(pipe) == before
    assert torch.equal(pipe("a dog", latents=x, num_inference_steps=2, output_type="latent").images, picture)
    assert sdxl not in result.folder.joinpath("run.sqlite").read_bytes().decode("latin1")


def test_a_live_pipeline_is_given_back_after_an_error(sdxl: str) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    pipe("a dog", num_inference_steps=1, output_type="latent")
    before = state(pipe)

    def broken(images: Any, prompts: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(FairleadError, match="ValueError"):
        fairlead.run("a dog", model=pipe, reward=broken, budget={"nfe": 4}, steps=2)
    assert state(pipe) == before


def test_the_same_pictures_live_and_from_the_folder(sdxl: str) -> None:
    words = {"reward": "brightness", "budget": {"nfe": 4}, "steps": 2, "batch": 2}
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    a = fairlead.run("a dog", model=pipe, **words)
    b = fairlead.run("a dog", model=sdxl, settings={"model": {"dtype": "float32"}}, **words)
    assert list(a.candidates["reward"]) == list(b.candidates["reward"])


def test_resume_of_a_live_run_asks_for_the_pipeline(sdxl: str, tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    fairlead.run("a dog", model=pipe, reward="brightness", budget={"nfe": 4}, steps=2, out=tmp_path / "run")
    with pytest.raises(FairleadError, match="live pipeline"):
        fairlead.resume(tmp_path / "run", budget={"nfe": 8})
    assert len(fairlead.resume(tmp_path / "run", budget={"nfe": 8}, model=pipe).candidates) == 4


def test_loading_settings_have_no_effect_on_a_live_pipeline(sdxl: str) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    with pytest.raises(FairleadError, match="vae_tiling has no effect"):
        fairlead.run("a dog", model=pipe, reward="brightness", settings={"model": {"vae_tiling": True}})


def test_every_loading_switch_is_taken(sdxl: str) -> None:
    model = StableDiffusionXL(sdxl, dtype="bf16", vae_slicing=True, vae_tiling=True, cpu_offload="text")
    assert model.net.dtype == torch.bfloat16
    assert model.vae.use_tiling
    assert model.vae.use_slicing
    assert model.encode(["a dog"]).tokens.dtype == torch.bfloat16
    with pytest.raises(FairleadError, match="Number format"):
        StableDiffusionXL(sdxl, dtype="fp64")


def test_half_precision_decodes_in_full_and_gives_back_half(sdxl: str) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl, dtype=torch.float16)
    assert pipe.vae.config.force_upcast
    model = StableDiffusionXL(pipe)
    assert pipe.vae.dtype == torch.float32
    model.release()
    assert pipe.vae.dtype == torch.float16


def test_a_lora_without_its_package_is_one_sentence(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlead.models import _load

    monkeypatch.setattr(_load, "find_spec", lambda name: None)
    with pytest.raises(FairleadError, match="pip install peft"):
        StableDiffusionXL(sdxl, lora="somebody/lora")


def test_a_missing_variant_is_one_sentence(sdxl: str) -> None:
    spec = make_spec("a dog", model=sdxl, reward="brightness", settings={"model": {"variant": "fp16"}})
    with pytest.raises(FairleadError, match="could not be loaded") as caught:
        models.build(spec, device="cpu", dtype="float32")
    assert "--variant" in str(caught.value)


def test_lora_is_merged(sdxl: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = diffusers.utils.convert_state_dict_to_diffusers(__import__("peft").get_peft_model_state_dict(pipe.unet))
    diffusers.StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    file = str(tmp_path / "pytorch_lora_weights.safetensors")
    plain, with_lora = StableDiffusionXL(sdxl), StableDiffusionXL(sdxl, lora=file, lora_scale=0.5)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    a, b = (dict(m.net.named_parameters()) for m in (plain, with_lora))
    assert set(a) == set(b)
    assert not torch.equal(a[name], b[name])


def short_of_memory(model: Any, rows: int) -> list[int]:
    """From now on the network runs out of memory above so many rows; the sizes it was called with are recorded."""
    seen: list[int] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        n = len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        seen.append(n)
        if n > rows:
            raise torch.OutOfMemoryError("simulated")

    model.net.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_rows_are_halved_when_memory_runs_out(family: str, request: pytest.FixtureRequest) -> None:
    make: Callable[..., Any] = {"sdxl": StableDiffusionXL, "sd3": StableDiffusion3}[family]
    model, meter = make(request.getfixturevalue(family), guidance_scale=3.0), Meter()
    model.meter(meter)
    cond, at = model.encode(["a dog"] * 5), model.levels(4)[1]
    x = normals(tuple(Key.root(i) for i in range(5)), *model.latent)
    with torch.no_grad(), meter.grant(INFINITE):
        whole_batch = model.predict(x, at, cond, whole(5, at))
        seen = short_of_memory(model, 3)
        halved = model.predict(x, at, cond, whole(5, at))
        assert seen == [10, 5, 2, 2, 2, 2, 2]
        again = model.predict(x, at, cond, whole(5, at))
        assert seen[7:] == [2] * 5
    assert torch.allclose(halved, whole_batch, atol=1e-5)
    assert torch.equal(halved, again)
    assert meter.spent.forwards == 30


def test_rows_that_see_each_other_are_not_cut(sd3: str) -> None:
    model, meter = StableDiffusion3(sd3, guidance_scale=3.0), Meter()
    model.meter(meter)
    cond, at = model.encode(["a dog"] * 4), model.levels(4)[1]
    x = normals(tuple(Key.root(i) for i in range(4)), *model.latent)
    rows = whole(4, at, groups=torch.tensor([0, 1, 0, 1]))
    calls: list[list[tuple[int, bool]]] = []
    with torch.no_grad(), meter.grant(INFINITE):
        plain = model.predict(x, at, cond, rows)

        def look(told: Any, tokens: Any) -> Any:
            calls.append(list(zip(told.group.tolist(), told.conditional.tolist(), strict=True)))
            return tokens

        remove = model.edit(model.sites[0], look)
        short_of_memory(model, 3)
        assert torch.allclose(model.predict(x, at, cond, rows), plain, atol=1e-5)
        assert calls == [[(g, c)] * 2 for c in (False, True) for g in (0, 1)]
        short_of_memory(model, 1)
        with pytest.raises(FairleadError, match="Memory ran out on cpu with 2 row"):
            model.predict(x, at, cond, rows)
        remove()


def test_decoding_is_halved_when_memory_runs_out(sd3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StableDiffusion3(sd3)
    z = normals(tuple(Key.root(i) for i in range(5)), *model.latent)
    with torch.no_grad():
        images, decode, seen = model.decode(z), model.vae.decode, []

        def small(part: Any, **more: Any) -> Any:
            seen.append(len(part))
            if len(part) > 2:
                raise torch.OutOfMemoryError("simulated")
            return decode(part, **more)

        monkeypatch.setattr(model.vae, "decode", small)
        assert torch.allclose(model.decode(z), images, atol=1e-5)
        assert seen == [5, 2, 2, 1]


def test_compiled_blocks_keep_counts_and_edits(sd3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: (compiled.append(f), lambda *a, **k: f(*a, **k))[1])
    model = StableDiffusion3(sd3, compile=True, guidance_scale=1.0)
    assert len(compiled) == 3
    from fairlead.testing import model_laws

    model_laws(model)
    model.release()
    assert all("forward" not in vars(b) for b in model.net.transformer_blocks)


def header(path: Path, *names: str) -> Path:
    text = json.dumps({n: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in names}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_checkpoint_files_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    for name, family in {
        "conditioner.embedders.1.model.ln_final.weight": "StableDiffusionXLPipeline",
        "cond_stage_model.transformer.text_model.x": "StableDiffusionPipeline",
        "model.diffusion_model.joint_blocks.0.x": "StableDiffusion3Pipeline",
        "model.diffusion_model.double_blocks.0.x": "FluxPipeline",
    }.items():
        assert models.pipeline(str(header(file, name))) == family
    with pytest.raises(FairleadError, match="a LoRA goes with --lora"):
        models.pipeline(str(header(file, "lora_unet_x.alpha")))
    file.write_bytes(b"PK")
    with pytest.raises(FairleadError, match="not a safetensors file"):
        models.pipeline(str(file))
    (tmp_path / "m.ckpt").write_bytes(b"")
    with pytest.raises(FairleadError, match="convert it to safetensors"):
        models.pipeline(str(tmp_path / "m.ckpt"))
    with pytest.raises(FairleadError, match="There is no file"):
        models.pipeline(str(tmp_path / "n.safetensors"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("make", "kind"), [(tiny.sd, "StableDiffusionPipeline"), (tiny.sdxl, "StableDiffusionXLPipeline")]
)
def test_a_checkpoint_file_draws_what_its_folder_draws(make: Any, kind: str, tmp_path: Path, offline: None) -> None:
    from fairlead.app.cli import main

    folder = tiny.saved(tmp_path / "whole", make, diffusers.EulerDiscreteScheduler(**EULER))
    bare = single_file.configurations(folder, tmp_path / "bare")
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    file = single_file.save(single_file.original(pipe), tmp_path / "m.safetensors")
    words = ["run", "a red apple", "--reward", "brightness", "--budget", "nfe=4", "--steps", "2", "--batch", "2"]
    assert main([*words, "-m", folder, "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "-m", str(file), "--set", f"model.config={bare}", "--out", str(tmp_path / "b")]) == 0
    a, b = (Store.open(tmp_path / name) for name in "ab")
    assert [row.reward for row in a.candidates()] == [row.reward for row in b.candidates()]


def test_parts_that_a_checkpoint_lacks_come_from_the_folder(sdxl: str, tmp_path: Path, offline: None) -> None:
    from fairlead.models import _load

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    weights = single_file.original(pipe)
    unet = {k: v for k, v in weights.items() if k.startswith("model.diffusion_model.")}
    alone = single_file.save(unet, tmp_path / "unet.safetensors")
    loaded = _load.load(str(alone), "StableDiffusionXLPipeline", config=sdxl)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(loaded, name).state_dict(), getattr(pipe, name).state_dict()
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    bare = single_file.configurations(sdxl, tmp_path / "bare")
    some = {k: v for k, v in weights.items() if not k.startswith("first_stage_model.")}
    file = single_file.save(some, tmp_path / "m.safetensors")
    for settings, said in (
        ({}, "configurations they need"),
        ({"config": bare}, "does not contain the weights of AutoencoderKL"),
    ):
        spec = make_spec("a dog", model=str(file), reward="brightness", settings={"model": settings})
        with pytest.raises(FairleadError, match=said) as caught:
            models.build(spec, device="cpu", dtype="float32")
        assert "--set model.config=FOLDER" in str(caught.value)


def test_offline_is_one_sentence(offline: None) -> None:
    with pytest.raises(FairleadError, match="not in the local cache") as caught:
        models.pipeline("somebody/nothing")
    assert str(caught.value).count(". ") == 1, "what is wrong, and what to do"


def named(name: str) -> type[Exception]:
    return type(name, (OSError,), {})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "Accept its licence"),
        ("RevisionNotFoundError", "--revision"),
        ("RepositoryNotFoundError", "no model 'a/b' on the hub"),
        ("LocalEntryNotFoundError", "not in the local cache"),
        ("OutOfMemoryError", "does not fit"),
        ("WeirdError", "WeirdError: what"),
    ],
)
def test_errors_are_explained(kind: str, said: str) -> None:
    try:
        try:
            raise named(kind)("what")
        except OSError as inner:
            raise OSError("outer what") from inner
    except OSError as error:
        link = error if kind != "WeirdError" else error.__cause__
        assert link is not None
        assert said in str(hub.explained(link, "a/b"))


def test_the_command_line_speaks_to_the_model(sdxl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlead.app.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "before")
    words = [
        "run",
        "a red apple",
        "-m",
        sdxl,
        "--reward",
        "brightness",
        "--budget",
        "nfe=4",
        "--steps",
        "2",
        "--batch",
        "2",
        "--height",
        "24",
        "--guidance-scale",
        "3",
        "--negative-prompt",
        "a 'dog'",
        "--dtype",
        "fp32",
        "--vae-slicing",
        "--token",
        "secret-token",
        "--out",
        "run",
        "--set",
        "model.width=16",
    ]
    assert main(words) == 0
    spec = Store.open(tmp_path / "run").spec
    assert spec.model.settings == {
        "height": 24,
        "guidance_scale": 3.0,
        "negative_prompt": "a 'dog'",
        "dtype": "fp32",
        "vae_slicing": True,
        "width": 16,
    }
    assert spec.sampler == "euler"
    assert b"secret-token" not in (tmp_path / "run" / "run.sqlite").read_bytes()


def test_the_laws_hold_with_traced_blocks(sd3: str) -> None:
    from fairlead.testing import model_laws

    model = StableDiffusion3(sd3, guidance_scale=2.0)
    model.compile(backend="eager")
    model_laws(model)


def test_a_hub_name_is_known_by_its_small_files(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, file: str, revision: str | None = None) -> Path | None:
        asked.append((file, revision))
        path = Path(sdxl) / file
        return path if path.is_file() else None

    monkeypatch.setattr(hub, "fetch", fetch)
    assert models.defaults("somebody/sdxl-turbo", "main")["steps"] == 4
    assert {file for file, _ in asked} == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"}
    assert {revision for _, revision in asked} == {"main"}
    able = models.abilities("somebody/model")
    assert able is not None
    assert able.pipeline == "StableDiffusionXLPipeline"
    with pytest.raises(FairleadError, match="edits joint attention"):
        models.check(make_spec("a dog", model="somebody/model", reward="brightness", intervene="token_mean_damping"))
