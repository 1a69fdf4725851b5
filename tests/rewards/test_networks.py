"""Every network reward equals its formula, on tiny random weights in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.rewards._clip import MEAN, STD, preprocess
from fairlead.rewards.aesthetic import Aesthetic, load_head
from fairlead.rewards.clip_score import ClipScore
from fairlead.rewards.hps import Hps, letterbox
from fairlead.rewards.image_reward import ImageReward
from fairlead.rewards.pick_score import PickScore
from fairlead.rewards.self_verifier import SelfVerifier
from fairlead.testing import reward_laws
from fairlead.testing.rewards import pictures

WORDS = ["a dog", "two cats", "a dog", "z", "owl"]


def test_all_four_scales_of_clip_score(clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    net, tokens = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    images = pictures(5)
    pixels = F.interpolate(images, (30, 30), mode="bicubic", antialias=True)
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    def logits(words: list[str]) -> Tensor:
        ids = [tokens(w, truncation=True, max_length=12, return_tensors="pt") for w in words]
        with torch.no_grad():
            return torch.stack(
                [net(**i, pixel_values=p[None]).logits_per_image[0, 0] for i, p in zip(ids, pixels, strict=True)]
            )

    scale = float(net.logit_scale.detach().exp())
    cosine = logits(WORDS) / scale
    found = {s: ClipScore(str(clip_folder), scale=s)(images, WORDS)[0] for s in ("percent", "cosine", "logit")}
    assert torch.allclose(found["cosine"], cosine, atol=1e-6)
    assert torch.allclose(found["percent"], 100 * cosine, atol=1e-4)
    assert torch.allclose(found["logit"], scale * cosine, atol=1e-5)
    prefixed = logits([f"A photo depicts {w}" for w in WORDS]) / scale
    with pytest.warns(UserWarning, match="at most 12 tokens"):
        hessel = ClipScore(str(clip_folder), scale="hessel")(images, WORDS)[0]
    assert torch.allclose(hessel, 2.5 * prefixed.clamp(min=0), atol=1e-6)


def encoded(net: tiny.OpenClip, tokens: Any, words: list[str]) -> Tensor:
    """Each prompt on its own, without padding."""
    ids = [torch.tensor(tokens([w], truncation=True, max_length=12)["input_ids"]) for w in words]
    return torch.cat([F.normalize(net.encode(i), dim=-1) for i in ids])


@pytest.mark.parametrize("quick", [True, False])
def test_an_open_clip_file_is_the_same_network(quick: bool, clip_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = tmp_path / f"{quick}.pt"
    net = tiny.open_clip_file(path, quick, openai=quick)
    reward = ClipScore(str(path), scale="logit", tokenizer=str(clip_folder), activation=None if quick else "gelu")
    images, tokens = pictures(5), AutoTokenizer.from_pretrained(clip_folder)
    image = F.normalize(net.visual(preprocess(images, 30)), dim=-1)
    text = encoded(net, tokens, WORDS)
    assert torch.allclose(reward(images, WORDS)[0], net.logit_scale.exp() * (image * text).sum(-1), atol=1e-3)
    other = ClipScore(
        str(path), scale="logit", tokenizer=str(clip_folder), activation="gelu" if quick else "quick_gelu"
    )
    assert not torch.allclose(reward(images, WORDS)[0], other(images, WORDS)[0], atol=1e-3)


def test_an_open_clip_file_must_say_what_it_does_not_tell(clip_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "laion.pt"
    tiny.open_clip_file(path, False)
    with pytest.raises(FairleadError, match="quick_gelu"):
        ClipScore(str(path), tokenizer=str(clip_folder))
    state = torch.load(path)["state_dict"]
    del state["module.visual.ln_post.bias"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(FairleadError, match="post_layernorm"):
        ClipScore(str(tmp_path / "less.pt"), activation="gelu", tokenizer=str(clip_folder))


@pytest.mark.parametrize("version", ["2", 2.1])
def test_hps_is_a_hundred_cosines_of_a_letterboxed_picture(version: Any, clip_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    net = tiny.open_clip_file(tmp_path / "hps.pt", False)
    reward = Hps(version, checkpoint=str(tmp_path / "hps.pt"), tokenizer=str(clip_folder))
    tokens = AutoTokenizer.from_pretrained(clip_folder)
    images = F.interpolate(pictures(2), (40, 80), mode="bilinear")
    small = F.interpolate(images, (15, 30), mode="bicubic", antialias=True)
    square = torch.zeros(2, 3, 30, 30)
    square[..., 7:22, :] = small
    assert torch.equal(
        letterbox(images, 30), (square - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    )
    image = F.normalize(net.visual(letterbox(images, 30)), dim=-1)
    text = encoded(net, tokens, WORDS[:2])
    assert torch.allclose(reward(images, WORDS[:2])[0], 100 * (image * text).sum(-1), atol=1e-3)
    assert reward.name == f"hps_v{version}"


def test_pick_score_is_the_checkpoints_own_logit(clip_folder: Path) -> None:
    images = pictures(5)
    assert torch.equal(
        PickScore(str(clip_folder))(images, WORDS)[0], ClipScore(str(clip_folder), scale="logit")(images, WORDS)[0]
    )


def test_image_reward_is_its_formula_without_padding(bert_folder: Path, tmp_path: Path) -> None:
    state = tiny.image_reward_file(tmp_path / "ImageReward.pt")
    reward = ImageReward(str(tmp_path), tokenizer=str(bert_folder))
    images = pictures(5)
    found = reward(images, WORDS)[0]
    for i, word in enumerate(WORDS):
        ids = reward._tokens(word)["input_ids"]
        wanted = tiny.image_reward(state, preprocess(images[i : i + 1], 30), ids)
        assert found[i] == pytest.approx(float(wanted), abs=2e-5)
    with pytest.warns(UserWarning, match="at most 35 tokens"):
        long = reward(images[:1], ["abcdefgh " * 6])[0]
    assert torch.equal(long, reward(images[:1], ["abcdefgh " * 9])[0])


def test_image_reward_refuses_another_model(bert_folder: Path, tmp_path: Path) -> None:
    state = tiny.image_reward_file(tmp_path / "ir.pt")
    state.pop("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias")
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(FairleadError, match="crossattention"):
        ImageReward(str(tmp_path / "less.pt"), tokenizer=str(bert_folder))
    torch.save({"a": torch.zeros(1)}, tmp_path / "none.pt")
    with pytest.raises(FairleadError, match=r"ImageReward\.pt"):
        ImageReward(str(tmp_path / "none.pt"), tokenizer=str(bert_folder))


def make(name: str, clip_folder: Path, bert_folder: Path, tmp_path: Path) -> Any:
    if name == "hps":
        tiny.open_clip_file(tmp_path / "hps.pt", False)
        return Hps(checkpoint=str(tmp_path / "hps.pt"), tokenizer=str(clip_folder))
    if name == "image_reward":
        tiny.image_reward_file(tmp_path / "ImageReward.pt")
        return ImageReward(str(tmp_path), tokenizer=str(bert_folder))
    if name == "aesthetic":
        torch.save({"weight": tiny.normal("head", 1, 16), "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
        return Aesthetic(head=str(tmp_path / "head.pth"), checkpoint=str(clip_folder))
    return {"clip_score": ClipScore, "pick_score": PickScore}[name](str(clip_folder))


@pytest.mark.parametrize("name", ["hps", "image_reward", "aesthetic", "clip_score", "pick_score"])
def test_laws(name: str, clip_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    """Batch independence, order, frozen weights, finite differences, metering."""
    reward_laws(make(name, clip_folder, bert_folder, tmp_path), pictures(5, 64), WORDS)


@pytest.mark.parametrize("side", [512, 1024])
def test_resizing_is_pils_within_rounding_and_antialiasing_is_why(side: int) -> None:
    """Bounds of evaluation.md 0.3, in units of CLIP's standard deviation; a 1/f picture with sharp bars."""
    row, column = np.mgrid[:side, :side]
    waves = sum(
        np.sin(2 * np.pi * (row * a + column * b) / side + a) / (a + b) for a in (1, 3, 17, 90) for b in (2, 5, 40)
    )
    array = 127 + 40 * np.stack([waves, np.roll(waves, 9, 0), waves.T], -1)
    array = array.clip(40, 215)
    array[side // 3 : side // 3 + 3] = 215
    array[:, side // 5 :: side // 11] = 40
    array = array.astype(np.uint8)
    official = np.asarray(Image.fromarray(array).resize((224, 224), Image.Resampling.BICUBIC))
    wanted = (torch.tensor(official).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    image = torch.tensor(array).permute(2, 0, 1)[None] / 255
    low = preprocess(torch.zeros(1, 3, 8, 8), 8)[0, :, :1, :1]
    high = preprocess(torch.ones(1, 3, 8, 8), 8)[0, :, :1, :1]
    gap = (preprocess(image, 224)[0].clamp(low, high) - wanted).abs()
    assert gap.mean() < 0.006
    assert gap.max() < 0.05
    aliased = F.interpolate(image, (224, 224), mode="bicubic")[0]
    aliased = (aliased - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert (aliased.clamp(low, high) - wanted).abs().max() > 0.5


def test_preprocessing_is_differentiable_and_crops_the_centre() -> None:
    x = tiny.normal("x", 1, 3, 12, 15).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: preprocess(y, 7, (0.5,) * 3, (0.3,) * 3), x)
    wide = torch.zeros(1, 3, 10, 30)
    wide[..., 10:20] = 1
    assert torch.equal(preprocess(wide, 10, (0,) * 3, (1,) * 3), torch.ones(1, 3, 10, 10))


SAC = [1.6555, 2.3593, 3.0698, 3.6725, 4.2380, 4.7010, 5.0731, 5.3654, 5.5767, 5.7468]
AVA = [4.5126, 4.4763, 4.4919, 4.5959, 4.7054, 4.8433, 5.0039, 5.1479, 5.2309, 5.2664]
V1 = [-2.4579, -0.1379, 1.8951, 3.5849, 5.0997, 6.4701, 7.7870, 9.0480, 10.2264, 11.3044]


@pytest.mark.parametrize(
    ("file", "golden", "norm", "bias"),
    [
        ("aesthetic_v2/sac+logos+ava1-l14-linearMSE.pth", SAC, 17.99562, 5.236646),
        ("aesthetic_v2/ava+logos-l14-linearMSE.pth", AVA, 12.45920, 5.298103),
        ("aesthetic_v1/sa_0_4_vit_l_14_linear.pth", V1, 28.4444, 3.529372),
    ],
)
def test_published_heads(file: str, golden: list[float], norm: float, bias: float, shared: Path) -> None:
    """evaluation.md E.1 and E.2."""
    w, b = load_head(shared / file)
    found = (shared / "aesthetic_v1" / "vit_l_14_embeddings").glob("*.npy")
    vectors = sorted(found, key=lambda p: int("".join(filter(str.isdigit, p.stem)) or 0))
    e = torch.tensor(np.stack([np.load(p).reshape(-1) for p in vectors])).float()
    assert float(w.norm()) == pytest.approx(norm, abs=1e-3)
    assert float(b) == pytest.approx(bias, abs=1e-5)
    assert (e @ w + b).tolist() == pytest.approx(golden, abs=2e-4)


@pytest.mark.parametrize("file", ["sa_0_4_vit_b_16_linear.pth", "sa_0_4_vit_b_32_linear.pth"])
def test_small_published_heads_load(file: str, shared: Path) -> None:
    assert load_head(shared / "aesthetic_v1" / file)[0].shape == (512,)


def test_the_collapsed_head_is_the_sequential_one(shared: Path) -> None:
    state = torch.load(
        shared / "aesthetic_v2" / "sac+logos+ava1-l14-linearMSE.pth", weights_only=True, map_location="cpu"
    )
    x = e = F.normalize(tiny.normal("e", 6, 768), dim=-1)
    for i in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
    w, b = load_head(shared / "aesthetic_v2" / "sac+logos+ava1-l14-linearMSE.pth")
    assert torch.allclose(e @ w + b, x[:, 0], atol=1e-5)


def towers(kind: str, folder: Path) -> Path:
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    seen, read = {**sizes, "image_size": 28, "patch_size": 14}, {**sizes, "vocab_size": 20, "bos_token_id": 0}
    net = {
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**seen)),
        "dino": lambda: t.ViTModel(t.ViTConfig(**seen)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(vision_config=seen, text_config={**read, "eos_token_id": 1})),
    }[kind]()
    tiny.shaken(net)
    net.save_pretrained(folder)
    t.ViTImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["dinov2", "dino", "siglip", "clip"])
def test_the_self_verifier_is_a_cosine_of_features(kind: str, clip_folder: Path, tmp_path: Path) -> None:
    reward = SelfVerifier(str(clip_folder if kind == "clip" else towers(kind, tmp_path)))
    images = pictures(4)
    same = reward.compare(images, images, [""] * 4)
    other = reward.compare(images, images.flip(0), [""] * 4)
    assert torch.allclose(same, torch.ones(4), atol=1e-5)
    assert (other < 0.9999).all()
    assert torch.allclose(other, reward.compare(images.flip(0), images, [""] * 4), atol=1e-5)
    assert reward(images, [""] * 4)[0].isnan().all()
    assert not reward(images, [""] * 4, {0.4: images})[0].isnan().any()


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: PickScore("nobody/nothing"), "hf download nobody/nothing"),
        (lambda: Hps("3"), "version '3' is unknown"),
        (lambda: ImageReward("/nowhere/ImageReward.pt"), "/nowhere/ImageReward.pt"),
        (lambda: ClipScore(scale="procent"), "percent"),
        (lambda: Aesthetic(head="head.pth"), "checkpoint"),
        (lambda: SelfVerifier(level=1.5), "(0, 1)"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(make_it: Any, said: str) -> None:
    with pytest.raises(FairleadError) as error:
        make_it()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hps", "image_reward", "aesthetic", "clip_score"])
def test_half_precision_pictures_are_read(name: str, clip_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    reward, images = make(name, clip_folder, bert_folder, tmp_path), pictures(2)
    full, half = reward(images, WORDS[:2])[0], reward(images.bfloat16(), WORDS[:2])[0]
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, rtol=0.05, atol=0.05 * float(full.abs().max()) + 0.02)


def test_rewards_on_one_checkpoint_share_one_network(clip_folder: Path) -> None:
    from fairlead.rewards._clip import clip

    assert (
        clip(str(clip_folder)) is clip(str(clip_folder), "cpu") is clip(str(clip_folder), device="cpu", activation=None)
    )
    assert clip(str(clip_folder)) is ClipScore(str(clip_folder))._clip
