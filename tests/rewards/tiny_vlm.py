"""A tiny random Qwen2-VL folder: model, image processor, tokenizer with a chat template; no video processor's library
needed.
"""

from __future__ import annotations

from pathlib import Path

import tiny

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|> <|image_pad|> <|vision_end|>{% else %} {{ c.text }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
WORDS = [
    "<unk>",
    "<pad>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "user",
    "assistant",
    "Yes",
    "No",
    "yes",
    "no",
    "Does",
    "this",
    "figure",
    "show",
    "a",
    "dog",
    "cat",
    "?",
    "or",
    ".",
    '"',
]


def save(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        additional_special_tokens=WORDS[2:6],
    )
    tokens.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 1024}
    ).save_pretrained(folder)
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(WORDS),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 4},
        image_token_id=4,
        video_token_id=5,
        vision_start_token_id=2,
        vision_end_token_id=3,
    )
    net = Qwen2VLForConditionalGeneration(config)
    tiny.shaken(net, 0.3)
    net.save_pretrained(folder)
    return folder
