"""CLIP rewards on a tiny random checkpoint, against transformers' own model and processor."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fairlead.core.errors import FairleadError
from fairlead.rewards._clip import Clip, clip, preprocess
from fairlead.rewards.aesthetic import Aesthetic, load_head
from fairlead.rewards.clip_score import ClipScore
from fairlead.testing import reward_laws
from fairlead.testing._check import prompts
from fairlead.testing.rewards import pictures
from tiny_flux import tokenizer

SIZE, DIM = 24, 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP folder with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    words = tokenizer()
    text = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 8,
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2)
            model.logit_scale.fill_(2.0)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return str(folder)


def reference(checkpoint: str, images: Tensor, words: list[str]) -> Tensor:
    """Cosines by transformers alone: PIL images, its processor, its tokenizer, its forward pass."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    pil = [Image.fromarray((i.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for i in images]
    pixels = CLIPImageProcessor.from_pretrained(checkpoint)(pil, return_tensors="pt").pixel_values
    coded = AutoTokenizer.from_pretrained(checkpoint)(words, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        out = CLIPModel.from_pretrained(checkpoint)(
            input_ids=coded.input_ids, attention_mask=coded.attention_mask, pixel_values=pixels
        )
    cosines: Tensor = (out.image_embeds * out.text_embeds).sum(-1)
    return cosines


def eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def test_score_is_the_cosine_of_transformers(checkpoint: str) -> None:
    images, words = eight_bit(pictures(4, SIZE)), prompts(4)
    expected = reference(checkpoint, images, words)
    assert float(expected.std()) > 1e-3
    got = ClipScore(checkpoint, scale="cosine").score(images, words)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 48), (40, 64), (64, 37), (24, 30)])
def test_preprocessing_is_the_processors(shape: tuple[int, int], checkpoint: str) -> None:
    """Resize by bicubic with antialiasing, centre crop, normalise; the processor rounds to 8 bits in between."""
    from transformers import CLIPImageProcessor

    images = eight_bit(torch.nn.functional.interpolate(pictures(2, 64), shape, mode="bilinear"))
    pil = [Image.fromarray((i.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for i in images]
    expected = CLIPImageProcessor.from_pretrained(checkpoint)(pil, return_tensors="pt").pixel_values
    got = preprocess(images, SIZE)
    assert got.shape == expected.shape == (2, 3, SIZE, SIZE)
    assert float((got - expected).abs().max()) < 2.5 / 255 / 0.26


def test_scales(checkpoint: str) -> None:
    images, words = eight_bit(pictures(3, SIZE)), prompts(3)
    cosine = ClipScore(checkpoint, scale="cosine").score(images, words)
    torch.testing.assert_close(ClipScore(checkpoint).score(images, words), 100 * cosine)
    torch.testing.assert_close(ClipScore(checkpoint, "logit").score(images, words), cosine * float(np.exp(2.0)))
    depicted = ClipScore(checkpoint, scale="cosine").score(images, [f"A photo depicts {w}" for w in words])
    hessel = ClipScore(checkpoint, "hessel").score(images, words)
    torch.testing.assert_close(hessel, 2.5 * depicted.clamp(min=0))
    with pytest.raises(FairleadError, match=r"clip_score\.scale is 'percents'.*Did you mean 'percent'"):
        ClipScore(checkpoint, "percents")


@pytest.mark.parametrize("scale", ["percent", "logit"])
def test_clip_score_laws(scale: str, checkpoint: str) -> None:
    reward_laws(ClipScore(checkpoint, scale))


def test_long_prompts_are_cut(checkpoint: str) -> None:
    image = pictures(1, SIZE)
    score = ClipScore(checkpoint).score(image, [" ".join(["dog"] * 500)])
    assert bool(score.isfinite().all())


def test_two_rewards_share_a_pass_and_no_more_than_that(checkpoint: str) -> None:
    own = Clip(checkpoint, "cpu")
    passes = []
    own._net.vision_model.register_forward_hook(lambda *a: passes.append(1))
    images = pictures(2, SIZE)
    with torch.no_grad():
        first = own.images(images)
        assert own.images(images) is first
        assert len(passes) == 1
        own.images(images.clone())
        assert len(passes) == 2
        images.mul_(0.5)
        assert not torch.equal(own.images(images), first), "the same tensor with other pixels"
    images.requires_grad_()
    for _ in range(2):
        (slope,) = torch.autograd.grad(own.images(images).sum(), images)
        assert bool((slope != 0).any()), "a pass without a graph must not be handed to who needs one"


def test_checkpoints_are_loaded_once(checkpoint: str) -> None:
    assert clip(checkpoint) is clip(checkpoint)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match=r"CLIP: .* could not be read") as told:
        ClipScore(str(tmp_path))
    assert "\n" not in str(told.value)


# aesthetic heads


def v1(folder: Path, dim: int = DIM) -> tuple[Path, nn.Linear]:
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = nn.Linear(dim, 1)
    save_file(head.state_dict(), folder / "v1.safetensors")
    return folder / "v1.safetensors", head


def v2(folder: Path, relu: bool = False) -> tuple[Path, nn.Module]:
    """The layout of the published file: Linear and Dropout in turn, `layers.N.*`."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        parts: list[nn.Module] = [
            nn.Linear(DIM, 12),
            nn.Dropout(0.2),
            nn.Linear(12, 8),
            nn.Dropout(0.2),
            nn.Linear(8, 6),
            nn.Dropout(0.1),
            nn.Linear(6, 4),
            nn.Linear(4, 1),
        ]
        if relu:
            parts.insert(1, nn.ReLU())
    net = nn.Sequential(*parts).eval()
    torch.save({f"layers.{k}": v for k, v in net.state_dict().items()}, folder / "v2.pth")
    return folder / "v2.pth", net


def test_heads_collapse_to_the_networks_they_are(tmp_path: Path) -> None:
    features = torch.nn.functional.normalize(torch.linspace(-1, 2, 5 * DIM).view(5, DIM), dim=-1)
    for path, net in (v1(tmp_path), v2(tmp_path)):
        w, b = load_head(path)
        with torch.no_grad():
            torch.testing.assert_close(features @ w + b, net(features).squeeze(1))


def test_aesthetic_is_the_head_on_the_unit_feature(checkpoint: str, tmp_path: Path) -> None:
    path, head = v1(tmp_path)
    images = pictures(3, SIZE)
    reward = Aesthetic(str(path), checkpoint)
    with torch.no_grad():
        features = clip(checkpoint).images(images)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(reward.score(images, ["x"] * 3), head(features).squeeze(1))
    reward_laws(reward)


def test_heads_that_cannot_be_used(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError, match="with ReLU is not affine"):
        load_head(v2(tmp_path, relu=True)[0])
    with pytest.raises(FairleadError, match="checkpoint is not set"):
        Aesthetic(str(v1(tmp_path)[0]))
    with pytest.raises(FairleadError, match="needs 9 features, but its CLIP has 16"):
        Aesthetic(str(v1(tmp_path, 9)[0]), checkpoint)
    with pytest.raises(FairleadError, match="could not be read"):
        load_head(tmp_path / "absent.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"123")
    with pytest.raises(FairleadError, match="could not be read"):
        load_head(tmp_path / "torn.safetensors")


RAN: list[str] = []


class Evil:
    def __reduce__(self) -> Any:
        return RAN.append, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.save({"weight": Evil()}, path, pickle_module=pickle)
    with pytest.raises(FairleadError, match="could not be read"):
        load_head(path)
    assert RAN == []
