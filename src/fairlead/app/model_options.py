"""Flags that speak to the model, named as in diffusers-cli; each is short for `--set model.SETTING=VALUE`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

PANEL = "Model"


def _flag(kind: Any, *names: str, metavar: str | None = None, text: str) -> Any:
    return Annotated[kind, typer.Option(*names, metavar=metavar, help=text, rich_help_panel=PANEL)]


FLAGS: dict[str, Any] = {
    "height": _flag(int | None, "--height", metavar="PX", text="Height of the picture.  [default: the model's own]"),
    "width": _flag(int | None, "--width", metavar="PX", text="Width of the picture.  [default: the model's own]"),
    "guidance_scale": _flag(
        float | None, "--guidance-scale", metavar="X", text="Strength of guidance.  [default: the model's own]"
    ),
    "negative_prompt": _flag(str | None, "--negative-prompt", metavar="TEXT", text="What guidance leads away from."),
    "dtype": _flag(
        str | None,
        "--dtype",
        metavar="NAME",
        text="float32, float16 or bfloat16.  [default: what the device is fast at]",
    ),
    "variant": _flag(str | None, "--variant", metavar="NAME", text="Variant of the weights, like fp16."),
    "revision": _flag(str | None, "--revision", metavar="NAME", text="Branch, tag or commit of a hub model."),
    "lora": _flag(
        list[str] | None, "--lora", metavar="FILE", text="LoRA file, or repository:file; repeat for several."
    ),
    "cpu_offload": _flag(
        str | None, "--cpu-offload", metavar="KIND", text="model, group, or text (only the text encoders)."
    ),
    "vae_tiling": _flag(bool, "--vae-tiling", text="Decode in tiles, for large pictures."),
    "vae_slicing": _flag(bool, "--vae-slicing", text="Decode one picture at a time."),
    "compile": _flag(bool, "--compile", text="Compile the blocks of the network; the first step is slow."),
    "attention_backend": _flag(str | None, "--attention-backend", metavar="NAME", text="diffusers' attention backend."),
}
"""Setting of the model -> its flag."""
TOKEN = _flag(
    str | None, "--token", metavar="TOKEN", text="Hub token for gated models; never recorded.  [default: HF_TOKEN]"
)


def model_flags(command: Callable[..., int]) -> Callable[..., int]:
    """The command with these flags; what is said there reaches it as further entries of its `setting`."""

    @wraps(command)
    def wrapper(**words: Any) -> int:
        if token := words.pop("token"):
            os.environ["HF_TOKEN"] = token
        said = {name: words.pop(name) for name in FLAGS}
        more = [f"model.{name}={value!r}" for name, value in said.items() if value not in (None, False, [])]
        return command(**{**words, "setting": [*more, *(words["setting"] or [])]})

    plain = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in plain.parameters.values()]
    extra = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=False if _is_switch(kind) else None
        )
        for name, kind in {**FLAGS, "token": TOKEN}.items()
    ]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    wrapper.__signature__ = plain.replace(parameters=[*keyword, *extra])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *extra]} | {"return": int}
    return wrapper


def _is_switch(kind: Any) -> bool:
    return kind.__origin__ is bool
