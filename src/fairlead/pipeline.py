"""A door shaped like a diffusers pipeline: `better = fairlead.Pipeline(pipe, reward=...)`, then `better(prompt)`.

Every argument of the wrapped pipeline's call is taken under its own name, or refused by name with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead import api
from fairlead.core.check import one_of, whole_number
from fairlead.core.errors import FairleadError, nearest
from fairlead.run.folders import new_folder
from fairlead.run.options import IN_A_PIPELINE, described

if TYPE_CHECKING:
    from fairlead.app.result import Result, Shot

OUTPUTS = ("pil", "np", "pt")
DELIVERED = ("prompt", "num_images_per_prompt", "generator", "output_type", "return_dict")
"""Arguments that this door delivers itself."""
PER_PROMPT = ("negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3")
"""Texts that may be a list with one for every prompt."""
LIKE_THE_PIPELINE = ("num_inference_steps", "guidance_scale")
"""Left out, these are what the pipeline's own call uses."""


@dataclass(frozen=True)
class PipelineOutput:
    """What a call returns: the pictures as diffusers returns them, and what stands behind them."""

    images: Any
    """PIL pictures, an array [B, H, W, 3] or a tensor [B, 3, H, W]; those of one prompt in a row, the best first."""
    runs: Sequence[Result]
    """One for every prompt."""
    rewards: list[float]
    """One for every picture."""
    baselines: list[Any]
    """One PIL picture for every prompt: what the wrapped pipeline itself makes of this prompt and noise."""

    def __getitem__(self, key: int | str) -> Any:
        """`out[0]` and `out["images"]`, as in diffusers."""
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter([f.name for f in fields(self)])

    def to_tuple(self) -> tuple[Any, ...]:
        """The values in order, the pictures first."""
        return tuple(getattr(self, name) for name in self)


class Pipeline:
    """A diffusers pipeline whose pictures are searched for. It keeps the pipeline's attributes and methods.

    `reward`, `budget`, `search`, `steer` and all other options are those of `fairlead.run`; the budget is for every
    prompt. `num_images_per_prompt` pictures are chosen from all that were made: good, and different from each other.
    With a `generator` the plain sample is the picture that the pipeline makes with it; without one and without `seed`,
    every call has another seed, drawn from torch's global generator. `out` is a folder in which each call keeps a set.
    """

    def __init__(self, pipe: Any, *, out: str | Path | None = None, **options: Any) -> None:
        if not hasattr(pipe, "components") or not callable(pipe):
            raise FairleadError(f"Pipeline needs a loaded diffusers pipeline, but is {pipe!r:.80}. Load one first.")
        unknown = set(options) & {"prompt", "model", "seeds", "on_step", "previews"}
        if unknown:
            raise TypeError(
                f"Pipeline() has no argument {sorted(unknown)[0]!r}: it belongs to the call or to the pipeline."
            )
        inspect.signature(api.run).bind("", **options)
        object.__setattr__(self, "wrapped", pipe)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "out", None if out is None else Path(out))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "wrapped"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What is set, for example another scheduler, is set on the wrapped pipeline."""
        setattr(self.wrapped, name, value)

    def to(self, *words: Any, **more: Any) -> Pipeline:
        """Move the wrapped pipeline."""
        self.wrapped.to(*words, **more)
        return self

    def __call__(self, *words: Any, **more: Any) -> Any:
        """Search for pictures of every prompt. The arguments are those of the wrapped pipeline's call."""
        given = self._arguments(words, more)
        chosen = dict(self.options)
        prompts = given.pop("prompt", None)
        count = whole_number("num_images_per_prompt", given.pop("num_images_per_prompt", 1), 1)
        output = one_of("output_type", given.pop("output_type", "pil"), OUTPUTS)
        as_object = bool(given.pop("return_dict", True))
        generator = given.pop("generator", None)
        texts = self._texts(prompts, given)
        rows = [{"prompt": text} for text in texts]
        settings = self._settings(given, chosen, rows)
        if generator is not None:
            runs = self._from_noise(rows, chosen, settings, self._noise(generator, len(rows), count, chosen, settings))
        else:
            if "seed" not in chosen:
                chosen["seed"] = _drawn_seed()
            tensors = {name: chosen.pop(name) for name in api.TENSORS if name in chosen}
            if tensors and len(rows) > 1:
                raise FairleadError(
                    f"{sorted(tensors)[0]} is for one prompt, but there are {len(rows)}. Call once for each."
                )
            search: Any = api.run
            folder = self._folder(texts)
            runs = list(search(rows, model=self.wrapped, settings=settings, out=folder, **tensors, **chosen))
        found = PipelineOutput(*_pictures(runs, count, output))
        return found if as_object else found.to_tuple()

    def _arguments(self, words: Sequence[Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """What was passed and differs from the defaults of the pipeline's call, by name."""
        call = inspect.signature(self.wrapped.__call__)
        try:
            bound = call.bind(*words, **more)
        except TypeError as error:
            raise TypeError(f"{type(self.wrapped).__name__}() needs other arguments: {error}.") from None
        given = {}
        for name, parameter in call.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._check_known(bound.arguments.pop(name, {}), call.parameters)
        for name, value in bound.arguments.items():
            usual = call.parameters[name].default
            same = value is usual or (isinstance(value, str | int | float | bool | tuple) and value == usual)
            if not same or name in DELIVERED:
                given[name] = value
        for name in LIKE_THE_PIPELINE:
            usual = call.parameters[name].default if name in call.parameters else None
            if isinstance(usual, int | float) and name not in given and _option(name) not in self.options:
                given[name] = usual
        return given

    def _check_known(self, words: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
        """Refuse what the pipeline would ignore because it is no argument of its call."""
        for word in words:
            near = nearest(word, taken)
            hint = IN_A_PIPELINE.get(word) or (f"did you mean {near!r}?" if near else "leave it out")
            raise TypeError(f"Pipeline() has no argument {word!r}: {hint}")

    def _texts(self, prompts: Any, given: Mapping[str, Any]) -> list[str]:
        """The prompts as a list."""
        if prompts is None:
            what = next((name for name in api.TENSORS if name in given), "prompt_embeds")
            raise FairleadError(
                f"prompt is missing. Rewards read the prompt, so pass it also beside {what}, whose tensors are used."
            )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise FairleadError("The list of prompts is empty. Write what the pictures should show.")
        return texts

    def _settings(self, given: dict[str, Any], chosen: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Distribute the arguments: options of the run into `chosen`, texts into `rows`, the rest are the model's."""
        own = dict(chosen.pop("settings", None) or {})
        of_model = dict(own.get("model", {}))
        for name, value in given.items():
            if name in IN_A_PIPELINE and name != "num_inference_steps":
                raise TypeError(f"Pipeline() cannot use {name!r}: {IN_A_PIPELINE[name]}.")
            if name in PER_PROMPT and isinstance(value, list | tuple):
                if len(value) != len(rows):
                    raise FairleadError(f"{name} has {len(value)} texts for {len(rows)} prompts. Pass one for each.")
                if name not in described():
                    raise FairleadError(f"{name} must be one text for all prompts, but is a list. Call once for each.")
                for row, text in zip(rows, value, strict=True):
                    row[name] = text
            elif _option(name) in described() or name in api.TENSORS:
                chosen[_option(name)] = value
            else:
                of_model[name] = value
        return {**own, "model": of_model} if of_model else own

    def _noise(
        self, generator: Any, prompts: int, count: int, chosen: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Any:
        """The noise that the pipeline's call would draw, of the first picture of every prompt [n, C, h, w]."""
        from diffusers.utils.torch_utils import randn_tensor

        from fairlead.run import models

        if "latents" in chosen:
            raise FairleadError("generator and latents both say where sampling starts. Pass one of them.")
        if isinstance(generator, list) and len(generator) != prompts * count:
            raise FairleadError(
                f"generator is a list of {len(generator)} for {prompts * count} pictures. Pass one for each picture."
            )
        sizes = {name: chosen[name] for name in ("height", "width") if chosen.get(name) is not None}
        adapter = models.lend(self.wrapped, {**settings.get("model", {}), **sizes})
        latent = adapter.latent
        adapter.release()
        part: Any = getattr(self.wrapped, "transformer", None) or getattr(self.wrapped, "unet", None)
        shape = (prompts * count, *latent)
        device = self.wrapped._execution_device
        return randn_tensor(shape, generator=generator, device=device, dtype=part.dtype)[::count]

    def _from_noise(
        self, rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], settings: Mapping[str, Any], noise: Any
    ) -> list[Result]:
        """A run for every prompt from noise of its own. Its other candidates get a seed that follows from the noise."""
        out = []
        for row, start in zip(rows, noise, strict=True):
            digest = blake2b(start.float().cpu().numpy().tobytes(), digest_size=4).digest()
            words = {**chosen, **row, "latents": start[None].float()}
            words.setdefault("seed", int.from_bytes(digest, "big"))
            folder = self._folder([row["prompt"]])
            out.append(api.run(**words, model=self.wrapped, settings=settings, out=folder))
        return out

    def _folder(self, texts: Sequence[str]) -> Path | None:
        return None if self.out is None else new_folder(str(texts[0]), datetime.now(UTC), self.out)


def _option(name: str) -> str:
    """What a run calls an argument of a pipeline."""
    return "steps" if name == "num_inference_steps" else name


def _drawn_seed() -> int:
    import torch

    return int(torch.randint(0, 2**31, (1,)).item())


def _pictures(runs: Sequence[Result], count: int, output: str) -> tuple[Any, Sequence[Result], list[float], list[Any]]:
    """The pictures of all runs, the runs, the rewards of the pictures, and the plain samples."""
    shots: list[Shot] = []
    for run in runs:
        shots += [run.best] if count == 1 else _kept(run, count)
    images = [shot.image for shot in shots]
    return _as(images, output), runs, [shot.reward for shot in shots], [run.baseline.image for run in runs]


def _kept(run: Result, count: int) -> list[Shot]:
    made = len(run.candidates)
    if made < count:
        raise FairleadError(
            f"num_images_per_prompt is {count}, but the budget made {made} pictures of {run.spec.prompt!r:.60}. Use a "
            "larger budget."
        )
    return run.keep(count)


def _as(images: list[Any], output: str) -> Any:
    """As diffusers returns them."""
    if output == "pil":
        return images
    import numpy as np

    array = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) / 255 for image in images])
    if output == "np":
        return array
    import torch

    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
