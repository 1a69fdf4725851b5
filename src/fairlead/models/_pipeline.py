"""What every adapter of a diffusers pipeline shares: borrowing, guidance, counting, chunks that fit, decoding, edits."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.core.cost import Cost, Meter
from fairlead.core.errors import FairleadError, OutOfMemory
from fairlead.core.intervention import one_prompt_a_group
from fairlead.core.model import Conditioning, Level, Rows, whole
from fairlead.models import _load
from fairlead.models._sites import Compiled, Sites


class Pipeline(Sites, ABC):
    """A diffusers pipeline behind the `Model` protocol; a family says how text, time and output are meant.

    `source` is a hub name, a folder, a checkpoint file (then `loading` goes to `_load.load`) or a live pipeline, which
    is used where it is and given back as found by `release`. Classifier-free guidance runs [negative, positive] in one
    call and mixes the raw outputs, as the pipelines do.
    """

    family: ClassVar[str]
    """The pipeline class a folder of this family names."""
    loading: ClassVar[frozenset[str]] = frozenset(
        [*list(inspect.signature(_load.load).parameters)[2:], "compile", "guidance_interval"]
    )
    """Settings that concern loading, the same for every family, and `guidance_interval`: the shares of noise
    sigma/(alpha + sigma) between which to guide, (0.22, 0.84) as published for SDXL (Kynkaanniemi et al. 2024, arXiv
    2404.07724). Both branches are run at every level: the price stays the same."""

    def __init__(
        self,
        source: Any,
        loading: Mapping[str, Any],
        *,
        height: int | None,
        width: int | None,
        cfg: float,
        negative_prompt: str | None,
        pipeline: str | None = None,
    ) -> None:
        loading = dict(loading)
        compiled = bool(loading.pop("compile", False))
        self._interval = _interval(loading.pop("guidance_interval", (0.0, 1.0)))
        self._given = not isinstance(source, str)
        if self._given and (lost := sorted(set(loading) - {"device", "dtype"})):
            raise FairleadError(
                f"A live pipeline is used as it is, so {lost[0]} has no effect: set it on the pipeline."
            )
        self._pipe: Any = source if self._given else _load.load(source, pipeline or self.family, **loading)
        self._text_away = not self._given and loading.get("cpu_offload") not in ("model", "group") and self._split()
        self._give_back = [_load.borrow(self._pipe)]
        self._net: Any = _load.denoiser(self._pipe)
        self._vae: Any = self._pipe.vae
        if self._vae.dtype == torch.float16 and self._vae.config.get("force_upcast"):
            self._vae.to(torch.float32)
            self._give_back.append(lambda: self._vae.to(torch.float16))
        self._device = self._net.device if self._text_away else torch.device(self._pipe._execution_device)
        self._dtype: torch.dtype = self._net.dtype
        self._cfg, self._negative = float(cfg), negative_prompt
        unit = self._unit()
        for name, size in (("height", height), ("width", width)):
            if size is not None and (size < unit or size % unit):
                raise FairleadError(f"{name} is {size}: give a multiple of {unit} pixels.")
        default = self._default_size()
        self._size = (height or default[0], width or default[1])
        scale = int(self._pipe.vae_scale_factor)
        self._latent = (self._channels(), self._size[0] // scale, self._size[1] // scale)
        self._meter: Meter | None = None
        self._paid, self._limit, self._decode_limit = False, 1 << 30, 1 << 30
        hook = self._net.register_forward_pre_hook(self._charge, with_kwargs=True)
        self._give_back.append(hook.remove)
        if compiled:
            self.compile()

    def _split(self) -> bool:
        """True if the text encoders were left on another device than the denoiser."""
        encoders = [v for k, v in self._pipe.components.items() if k.startswith("text_encoder") and v is not None]
        return any(e.device.type != _load.denoiser(self._pipe).device.type for e in encoders)

    # What a family says.

    def _unit(self) -> int:
        """Pixels a side must be a multiple of."""
        return int(self._pipe.vae_scale_factor)

    def _default_size(self) -> tuple[int, int]:
        """(height, width) in pixels the network was trained for."""
        side = self._net.config.get("sample_size") or self._pipe.default_sample_size
        h, w = (side, side) if isinstance(side, int) else side
        return int(h * self._pipe.vae_scale_factor), int(w * self._pipe.vae_scale_factor)

    def _channels(self) -> int:
        return int(self._net.config.in_channels)

    @abstractmethod
    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        """`tokens` [B, T, D] and whatever else the network is told, [B, ...] each."""

    def _nothing(self) -> dict[str, Tensor]:
        """The same for the negative prompt, one row."""
        return self._text([self._negative or ""])

    @abstractmethod
    def levels(self, steps: int) -> Sequence[Level]:
        """`steps` + 1 of them, noisiest first, read from the scheduler's configuration."""

    @abstractmethod
    def _network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """x [R, C, h, w] -> the network's raw output [R, C, h, w], float32."""

    def _guided(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Both raw outputs [R, C, h, w] -> the guided one (Ho and Salimans 2022, eq. 6)."""
        return negative + self._cfg * (positive - negative)

    def _besides(self, out: Tensor, positive: Tensor, rows: Rows, again: Callable[[], Tensor]) -> Tensor:
        """The guided output and what further calls add to it; `again` is the conditional half once more, charged."""
        return out

    def rows_each(self, rows: Rows) -> int:
        """Network rows of one evaluation in this step, where families differ from `branches`."""
        return self.branches

    def _clean(self, x: Tensor, at: Level, out: Tensor) -> Tensor:
        """x and the guided output [R, C, h, w] -> clean prediction x0 [R, C, h, w]; here the output is a flow velocity."""
        return x - at.sigma * out

    def _decoded(self, z: Tensor) -> Tensor:
        """Unscaled latents [B, C, h, w] -> pictures [B, 3, H, W] in [-1, 1]."""
        image: Tensor = self._vae.decode(z, return_dict=False)[0]
        return image

    # What all do alike.

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w)"""
        return self._latent

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return self._device

    @property
    def branches(self) -> int:
        """2 under classifier-free guidance, else 1."""
        return 2 if self._cfg > 1 else 1

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> tokens [B, T, D]; under guidance the negative prompt rides along as `negative` and `negative_*`."""
        with self._encoders_here():
            told = self._text(list(prompts))
            if self.branches == 2:
                for name, value in self._nothing().items():
                    key = "negative" if name == "tokens" else f"negative_{name}"
                    told[key] = value.expand(len(prompts), *value.shape[1:])
        return Conditioning(told.pop("tokens"), tuple(prompts), told)

    @contextmanager
    def _encoders_here(self) -> Iterator[None]:
        away = [v for k, v in self._pipe.components.items() if k.startswith("text_encoder") and v is not None]
        for encoder in away if self._text_away else ():
            encoder.to(self._device)
        try:
            yield
        finally:
            for encoder in away if self._text_away else ():
                encoder.to("cpu")

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] -> guided clean prediction x0 [R, C, h, w], float32."""
        if self._edits:
            one_prompt_a_group(cond.prompts, rows)
        tokens, y = self._reworded(x, cond.tokens, cond.extra.get("mask"), rows), x
        extra = {k: v for k, v in cond.extra.items() if not k.startswith("negative")}
        alone = (x, at, tokens, extra, rows)
        if self.branches == 2:
            y, rows = torch.cat([x, x]), rows.doubled()
            tokens = torch.cat([cond.extra["negative"].to(tokens.dtype), tokens])
            extra = {k: torch.cat([cond.extra[f"negative_{k}"].to(v.dtype), v]) for k, v in extra.items()}
        out = self._in_chunks(y, at, tokens, extra, rows)
        if self.branches == 2:
            negative, positive = out.chunk(2)
            low, high = self._interval
            out = self._guided(negative, positive) if low <= at.time <= high else positive
            out = self._besides(out, positive, alone[-1], lambda: self._in_chunks(*alone))
        return self._clean(x, at, out)

    def _in_chunks(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The network over all rows, charged once; halved when memory runs out, never between rows that see each other."""
        if self._meter is not None:
            self._meter.charge(Cost(forwards=len(x)))
        labels = torch.stack([rows.group, rows.replica, rows.conditional.long()], 1) if self._edits else None
        pieces = _together(labels, len(x))
        done: list[Tensor] = []
        order: list[int] = []
        start = 0
        while start < len(pieces):
            stop, size = start + 1, len(pieces[start])
            while stop < len(pieces) and size + len(pieces[stop]) <= self._limit:
                size, stop = size + len(pieces[stop]), stop + 1
            here = [row for piece in pieces[start:stop] for row in piece]
            out = self._attempt(x, at, tokens, extra, rows, here)
            if out is not None:
                done.append(out)
                order, start = order + here, stop
            elif stop - start == 1:
                raise OutOfMemory(
                    f"Memory ran out on {self._device} with {size} row(s) of {self._size[1]}x{self._size[0]} pixels: "
                    "use a smaller width and height, dtype bfloat16, a smaller group, or cpu_offload model."
                )
            else:
                self._limit = max(1, size // 2)
        return done[0] if len(done) == 1 and order == sorted(order) else torch.cat(done)[torch.tensor(order).argsort()]

    def _attempt(
        self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor], rows: Rows, here: list[int]
    ) -> Tensor | None:
        """The network on some of the rows; None if they did not fit."""
        self._rows, self._paid = rows, True
        if here != list(range(len(x))):
            cpu = torch.tensor(here)
            on = cpu.to(x.device)
            x, tokens, extra = x[on], tokens[on], {k: v[on] for k, v in extra.items()}
            self._rows = replace(
                rows,
                base=rows.base[cpu],
                group=rows.group[cpu],
                replica=rows.replica[cpu],
                conditional=rows.conditional[cpu],
            )
        self._mask = extra.get("mask") if self._edits else None
        try:
            return self._network(x, at, tokens, extra)
        except torch.OutOfMemoryError:
            pass
        finally:
            self._paid = False
        _empty_cache()
        return None

    def decode(self, x: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32; in halves when memory runs out."""
        if self._meter is not None:
            self._meter.charge(Cost(decodes=len(x)))
        z = self._unscaled(x).to(self._vae.dtype)
        while True:
            try:
                parts = [self._decoded(part).float() for part in torch.split(z, self._decode_limit)]
                return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
            except torch.OutOfMemoryError:
                size = min(len(z), self._decode_limit)
            _empty_cache()
            if size == 1:
                raise OutOfMemory(
                    f"Memory ran out on {self._device} while decoding one picture of {self._size[1]}x{self._size[0]} "
                    "pixels: use vae_tiling, or a smaller width and height."
                )
            self._decode_limit = size // 2

    def _unscaled(self, x: Tensor) -> Tensor:
        """Latents as the autoencoder made them, from the normalised ones of the network."""
        config = self._vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(1, -1, 1, 1) for v in (mean, std))
            return x * (std / float(config.scaling_factor)) + mean
        return x / float(config.scaling_factor) + float(config.get("shift_factor") or 0.0)

    @property
    def autoencoder(self) -> dict[str, Any]:
        """Class, channels and normalisation of the decoder."""
        names = ("latent_channels", "scaling_factor", "shift_factor", "latents_mean", "latents_std")
        config = self._vae.config
        return {"class": type(self._vae).__name__} | {n: config.get(n) for n in names if config.get(n) is not None}

    def networks(self) -> Iterator[Tensor]:
        """The weights that stay on the device."""
        for name, part in self._pipe.components.items():
            if isinstance(part, torch.nn.Module) and not (self._text_away and name.startswith("text_encoder")):
                yield from part.parameters()

    def trace(self, gradient: bool = False) -> list[Callable[[], Tensor]]:
        """One picture through the network, and through the decoder, and back with `gradient`, for counting memory; uncharged."""
        cond, at = self.encode([""]), self.levels(2)[0]

        def uncharged(work: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
            def run() -> Tensor:
                meter, self._meter = self._meter, None
                try:
                    x = torch.zeros(1, *self._latent, device=self._device, requires_grad=gradient)
                    with torch.set_grad_enabled(gradient):
                        out = work(x)
                        return torch.autograd.grad(out.sum(), x)[0] if gradient else out
                finally:
                    self._meter = meter

            return run

        return [uncharged(lambda x: self.predict(x, at, cond, whole(1, at))), uncharged(self.decode)]

    def meter(self, meter: Meter) -> None:
        """From now on every row of the network and every decoded latent is charged first."""
        self._meter = meter

    def _charge(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call of the network that did not come from `predict` is charged as well."""
        if self._meter is not None and not self._paid:
            name = "hidden_states" if "hidden_states" in kwargs else "sample"
            self._meter.charge(Cost(forwards=len(kwargs[name] if name in kwargs else args[0])))

    def compile(self, **options: Any) -> None:
        """Compile every repeated block's `forward`; hooks stay outside, so counting and edits see what they always saw."""
        names = getattr(self._net, "_repeated_blocks", None) or getattr(self._net, "_no_split_modules", None) or ()
        for module in self._net.modules():
            if type(module).__name__ in names and "forward" not in vars(module):
                module.forward = Compiled(module.forward, torch.compile(module.forward, **options))
                self._give_back.append(lambda module=module: module.__dict__.pop("forward", None))  # type: ignore[misc]

    def release(self) -> None:
        """Give the pipeline back as it was found; the adapter is not used afterwards."""
        while self._give_back:
            self._give_back.pop()()
        self._meter = None


def _interval(given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise FairleadError(
            f"guidance_interval is {given!r}: give the two shares of noise between which to guide, like [0.2, 0.8]."
        )
    return low, high


def _together(labels: Tensor | None, n: int) -> list[list[int]]:
    """Rows in ask order, those with equal labels as one piece."""
    if labels is None:
        return [[i] for i in range(n)]
    pieces: dict[tuple[int, ...], list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        pieces.setdefault(tuple(label), []).append(i)
    return list(pieces.values())


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def padded(rows: Sequence[Tensor], multiple: int) -> tuple[Tensor, Tensor]:
    """Rows [T_b, D] of unlike length -> [B, T, D] and a mask [B, T], T the longest rounded up to `multiple`.

    Rounding keeps the shape of a prompt independent of what it is encoded with, except across a multiple.
    """
    length = -(-max(len(row) for row in rows) // multiple) * multiple
    tokens = torch.stack([torch.cat([row, row.new_zeros(length - len(row), row.shape[1])]) for row in rows])
    mask = torch.tensor([[i < len(row) for i in range(length)] for row in rows], device=tokens.device)
    return tokens, mask


def widened(value: Tensor, length: int) -> Tensor:
    """[B, T, ...] with zeros up to `length` in its second dimension."""
    if value.shape[1] >= length:
        return value
    return torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], 1)
