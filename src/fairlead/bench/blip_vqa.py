"""P(yes) of BLIP's visual question answering, as T2I-CompBench asks it, on transformers' classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.core.errors import FairleadError
from fairlead.run import machine

NAME = "Salesforce/blip-vqa-capfilt-large"
SIDE = 480
"""Pixels of the published scorer; the hub's conversion was made at 384 and its positions are interpolated."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LONGEST = 35
ENCODE, DECODE = "[ENC]", "[DEC]"
ENCODE_ID, DECODE_ID = 30523, 30522
"""Where a tokenizer does not know the two words."""


def cleaned(question: str) -> str:
    """Lower case, without the marks that the published code takes out."""
    return re.sub(r'[.!"()*#:;~]', "", question.lower()).strip()


class BlipVqa:
    """p = sigmoid(logit of yes - logit of no) at the first answer token."""

    def __init__(self, name: str = NAME, side: int = SIDE, device: str | None = None) -> None:
        from transformers import AutoTokenizer, BlipForQuestionAnswering

        try:
            self._model = BlipForQuestionAnswering.from_pretrained(name)
            self._tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise FairleadError(
                f"BLIP-VQA needs {name}, which could not be loaded ({str(error).splitlines()[0]}). Download it first."
            ) from error
        self._device = device or machine.device()
        self._side = side
        self._model = self._model.to(self._device).eval()
        size = self._model.config.text_config.vocab_size
        self._encode = min(self._id(ENCODE, ENCODE_ID), size - 1)
        self._decode = min(self._id(DECODE, DECODE_ID), size - 1)
        self._yes, self._no = (int(self._tokenizer.convert_tokens_to_ids(word)) for word in ("yes", "no"))

    def _id(self, word: str, otherwise: int) -> int:
        found = self._tokenizer.convert_tokens_to_ids(word)
        return otherwise if found is None or found == self._tokenizer.unk_token_id else int(found)

    @torch.no_grad()
    def __call__(self, image: Tensor, questions: Sequence[str]) -> list[float]:
        """Image [3, H, W] in [0, 1], questions -> P(yes) each; an empty question is 1."""
        asked = [i for i, q in enumerate(questions) if cleaned(q).strip("? ")]
        out = [1.0] * len(questions)
        if not asked:
            return out
        x = F.interpolate(
            image[None].float(), (self._side, self._side), mode="bicubic", antialias=True, align_corners=False
        )
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        seen = self._model.vision_model(((x - mean) / std).to(self._device), interpolate_pos_encoding=True)[0]
        for i, p in zip(asked, self._ask(seen, [cleaned(questions[i]) for i in asked]), strict=True):
            out[i] = p
        return out

    def _ask(self, seen: Tensor, questions: list[str]) -> list[float]:
        tokens = self._tokenizer(questions, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(
            self._device
        )
        ids = tokens["input_ids"].clone()
        ids[:, 0] = self._encode  # transformers' own class leaves [CLS] here
        seen = seen.expand(len(questions), -1, -1)
        ones = torch.ones(seen.shape[:2], dtype=torch.long, device=self._device)
        text = self._model.text_encoder(
            input_ids=ids,
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=ones,
        )[0]
        start = torch.full((len(questions), 1), self._decode, device=self._device)
        logits = self._model.text_decoder(
            input_ids=start, encoder_hidden_states=text, encoder_attention_mask=tokens["attention_mask"]
        ).logits[:, 0]
        p: list[float] = (logits[:, self._yes] - logits[:, self._no]).float().sigmoid().tolist()
        return p
