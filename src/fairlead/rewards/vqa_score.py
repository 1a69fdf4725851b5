"""VQAScore: probability that a vision-language model says yes to the prompt (Lin et al. 2024, arXiv 2404.01291)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from fairlead.core.check import one_of
from fairlead.core.errors import FairleadError
from fairlead.core.reward import Reward
from fairlead.core.weights import pretrained
from fairlead.rewards._load import missing

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
READINGS = ("normalised", "raw")


def spellings(vocabulary: dict[str, int], word: str) -> list[int]:
    """Token ids that spell a word, whatever its case and the marker of a leading space."""
    marks = str.maketrans("", "", " \u0120\u2581\n\t")
    return sorted(i for token, i in vocabulary.items() if token.translate(marks).lower() == word)


def probability(logits: Tensor, yes: Sequence[int], no: Sequence[int], reading: str = "normalised") -> Tensor:
    """First-token logits [B, V] -> [B]: P(yes), or P(yes)/(P(yes) + P(no)); all spellings of a word together."""
    log_p = logits.float().log_softmax(-1)
    sure = log_p[:, list(yes)].logsumexp(-1)
    not_ = log_p[:, list(no)].logsumexp(-1)
    return torch.sigmoid(sure - not_) if reading == "normalised" else sure.exp()


def processor(checkpoint: str) -> Any:
    """The checkpoint's own processor; where it wants torchvision for films, the same one for pictures only."""
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(checkpoint)
    except ImportError:
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

        kind = transformers.AutoConfig.from_pretrained(checkpoint).model_type
        base: Any = getattr(transformers, PROCESSOR_MAPPING_NAMES[kind])

        class Pictures(base):  # type: ignore[misc]
            def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
                return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

        tokens = transformers.AutoTokenizer.from_pretrained(checkpoint)
        shape = transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
        return Pictures(image_processor=shape, tokenizer=tokens, chat_template=tokens.chat_template)


class VqaScore(Reward):
    """P(yes) to "Does this figure show ...?" from one forward pass of a chat model, not from generation.

    Generation settings (a repetition penalty, for example) would distort the probability, because the question
    itself contains both words. Numbers of different models are not comparable, nor are those of CLIP-FlanT5, which
    rates "Yes" and the end of the answer together.

    Settings:
        checkpoint (folder or hub name, default 'Qwen/Qwen2-VL-2B-Instruct'): the chat model.
        question (text with a place for the prompt, default 'Does this figure show "{}"? Please answer Yes or No.'):
            what is asked.
        reading (normalised or raw, default 'normalised'): `normalised` is P(yes)/(P(yes) + P(no)), `raw` is P(yes).
        device (name of a device, default 'cpu'): where the network runs; a run chooses the machine's device.
        dtype (name of a number format or auto, default 'auto'): number format of the network; `auto` is the
            checkpoint's.
    """

    name = "vqa_score"
    unit = "probability of yes, 0 to 1"
    licence: ClassVar[str] = "the checkpoint's own; Qwen2-VL-2B-Instruct Apache-2.0"
    source: ClassVar[str] = "Lin et al. 2024, arXiv 2404.01291, eq. 1"
    differentiable = False

    def __init__(
        self,
        checkpoint: str = "Qwen/Qwen2-VL-2B-Instruct",
        question: str = QUESTION,
        reading: str = "normalised",
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        from transformers import AutoModelForImageTextToText

        if "{}" not in question:
            raise FairleadError(f"vqa_score.question is {question!r}: must contain {{}}, which the prompt replaces.")
        self._question = question
        self._reading = one_of("vqa_score.reading", reading, READINGS)
        try:
            self._processor: Any = processor(checkpoint)
            net: Any = pretrained(self.name, AutoModelForImageTextToText, checkpoint, dtype=dtype)
        except (OSError, ValueError, ImportError) as error:
            raise missing(self.name, checkpoint, error) from error
        self._net = net.eval().requires_grad_(False).to(device)
        words = self._processor.tokenizer.get_vocab()
        self._yes = spellings(words, "yes")
        self._no = spellings(words, "no")
        if not (self._yes and self._no):
            raise FairleadError(
                f"vqa_score.checkpoint is {checkpoint!r}, which has no token for 'yes' or for 'no'. Use another model."
            )

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], prompts of length B -> [B] in [0, 1]."""
        out = []
        for image, prompt in zip(images, prompts, strict=True):
            array = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            content = [{"type": "image"}, {"type": "text", "text": self._question.format(prompt)}]
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            inputs = self._processor(text=[text], images=[Image.fromarray(array)], return_tensors="pt").to(
                self._net.device
            )
            out.append(self._net(**inputs).logits[0, -1])
        return probability(torch.stack(out), self._yes, self._no, self._reading).cpu()
