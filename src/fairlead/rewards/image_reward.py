"""ImageReward-v1.0 (Xu et al. 2023, arXiv 2304.05977) on transformers' BLIP classes; image-reward is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.rewards._clip import cut_warning, preprocess
from fairlead.rewards._load import fetch, fill, layers, missing, tensors

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of raw scores over the training set."""
LENGTH = 35
"""Word pieces read of a prompt, [CLS] and [SEP] included; padded to it, and padding is masked."""
VISION: tuple[tuple[str, str], ...] = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("norm.", "post_layernorm."),
)
BLOCK: tuple[tuple[str, str], ...] = (
    ("norm1.", "layer_norm1."),
    ("norm2.", "layer_norm2."),
    ("attn.qkv.", "self_attn.qkv."),
    ("attn.proj.", "self_attn.projection."),
    ("mlp.", "mlp."),
)


def rename(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The published state dict -> tensors of the image encoder, the text encoder and the head, by transformers'
    names.
    """
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for full, value in state.items():
        key = full.removeprefix("blip.")
        if key.startswith("visual_encoder."):
            key = key.removeprefix("visual_encoder.")
            prefix = ""
            table = VISION
            if match := re.match(r"blocks\.(\d+)\.", key):
                key = key[match.end() :]
                prefix = f"encoder.layers.{match[1]}."
                table = BLOCK
            new = next((n + key[len(o) :] for o, n in table if key.startswith(o)), None)
            if new is None:
                raise FairleadError(
                    f"image_reward does not know the tensor {full!r}. Use the published file, ImageReward.pt."
                )
            vision[prefix + new] = value
        elif key.startswith("text_encoder.") and not key.endswith("position_ids"):
            text[key.removeprefix("text_encoder.")] = value
        elif key.startswith("mlp."):
            head[key.removeprefix("mlp.")] = value
    return vision, text, head


def networks(state: Mapping[str, Tensor]) -> tuple[Any, Any, Tensor, Tensor]:
    """Image encoder, text encoder, and the head as one affine map w [D], b: it has no activation between its layers."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    vision, text, head = rename(state)
    try:
        width, _, patch, _ = vision["embeddings.patch_embedding.weight"].shape
        side = round((vision["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch
        words, hidden = text["embeddings.word_embeddings.weight"].shape
        longest = len(text["embeddings.position_embeddings.weight"])
        fc = len(vision["encoder.layers.0.mlp.fc1.weight"]), len(text["encoder.layer.0.intermediate.dense.weight"])
        w = head["layers.0.weight"].double()
        b = head["layers.0.bias"].double()
        for i in (2, 4, 6, 7):
            w, b = (head[f"layers.{i}.{k}"].double() @ v for k, v in (("weight", w), ("weight", b)))
            b = b + head[f"layers.{i}.bias"].double()
    except KeyError as error:
        raise FairleadError(
            f"image_reward finds no tensor {error} in its checkpoint. Use the published file, ImageReward.pt."
        ) from None
    see = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=fc[0],
            num_hidden_layers=layers(vision, "encoder.layers."),
            patch_size=patch,
            num_attention_heads=max(1, width // 64),
            image_size=side,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
    )
    read = BlipTextModel(
        BlipTextConfig(
            vocab_size=words,
            hidden_size=hidden,
            encoder_hidden_size=width,
            intermediate_size=fc[1],
            hidden_act="gelu",
            num_hidden_layers=layers(text, "encoder.layer."),
            num_attention_heads=max(1, hidden // 64),
            layer_norm_eps=1e-12,
            max_position_embeddings=longest,
            is_decoder=True,
            bos_token_id=min(30522, words - 2),
        ),
        add_pooling_layer=False,
    )
    return (
        fill("image_reward", see, vision),
        fill("image_reward", read, text),
        w.flatten().float(),
        b.flatten()[0].float(),
    )


def _embedded() -> str:
    from fairlead.pocket import load as pocket

    folder = getattr(pocket, "preference_folder", None)
    if folder is None or not Path(folder()).is_dir():
        raise FairleadError(
            "This package does not contain the network of image_reward. Set checkpoint='THUDM/ImageReward', the "
            "published one, or the path of its file."
        )
    return str(folder())


class ImageReward(Reward):
    """Standardised human preference: BLIP reads prompt and picture, a linear head rates token 0.

    Prompts are cut at 35 word pieces.

    Settings:
        checkpoint (file, hub name, folder or None, default None): the published file, a hub name that has it
            ('THUDM/ImageReward') or a folder; None is the small network in the package, where there is one.
        tokenizer (folder, hub name or None, default None): where the tokenizer is loaded from; None is the folder's
            own, or BERT's.
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
    """

    name = "image_reward"
    unit = "standard deviations of human preference, about -2 to 2"
    licence: ClassVar[str] = "Apache-2.0"
    source: ClassVar[str] = "Xu et al. 2023, arXiv 2304.05977, section 2.3; weights THUDM/ImageReward"
    differentiable = True

    def __init__(self, checkpoint: str | None = None, tokenizer: str | None = None, device: str = "cpu") -> None:
        from transformers import AutoTokenizer

        path = fetch(self.name, _embedded() if checkpoint is None else checkpoint, "ImageReward.pt")
        own = path.is_dir() and (path / "tokenizer_config.json").is_file()
        tokenizer = tokenizer or (str(path) if own else "google-bert/bert-base-uncased")
        if path.is_dir():
            path = next(
                (p for p in (path / "ImageReward.pt", path / "model.safetensors") if p.exists()),
                path / "ImageReward.pt",
            )
        see, read, w, b = networks(tensors(self.name, Path(path)))
        try:
            self._tokens: Any = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise missing(self.name, tokenizer, error) from error
        self._see = see.to(device)
        self._read = read.to(device)
        self._w = w.to(device)
        self._b = b.to(device)
        self._size = int(see.config.image_size)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B]."""
        for prompt, ids in zip(prompts, self._tokens(list(prompts))["input_ids"], strict=True):
            cut_warning(self.name, prompt, len(ids), LENGTH)
        words = self._tokens(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        words = {k: words[k].to(self._w.device) for k in ("input_ids", "attention_mask")}
        seen = self._see(
            pixel_values=preprocess(images.to(self._w.device, torch.float32), self._size)
        ).last_hidden_state
        mask = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        hidden = self._read(**words, encoder_hidden_states=seen, encoder_attention_mask=mask, is_decoder=False)
        raw: Tensor = hidden.last_hidden_state[:, 0] @ self._w + self._b
        return (raw - MEAN) / STD
