"""The base of all adapters of diffusers pipelines: loading, guidance, counting, chunks that fit in memory, decoding.

A new family is a subclass. It must define `encode_text`, `prepared` and `run_network`; the other hooks have defaults.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
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
from fairlead.models import _borrow, _given, _load
from fairlead.models._batches import empty_cache, together
from fairlead.models._pictures import PICTURE_SETTINGS, PictureInputs
from fairlead.models._warnings import Warnings
from fairlead.models.sites import Compiled, Sites


class Pipeline(Sites, PictureInputs, Warnings, metaclass=_borrow.GivesBack):
    """A diffusers pipeline behind the `Model` protocol. A subclass says how text, time and output of its family are
    meant.

    Classifier-free guidance runs [negative, positive] in one call and mixes the raw outputs, as diffusers does.
    """

    family: ClassVar[str]
    """Name of the pipeline class."""
    loading: ClassVar[frozenset[str]] = frozenset(
        [*list(inspect.signature(_load.load).parameters)[2:], "compile", "guidance_interval", *_given.NAMES]
    )
    """Settings of every family. Besides those of `_load.load`: `compile`, and `guidance_interval`, the shares of
    noise sigma/(alpha + sigma) between which guidance acts, (0.22, 0.84) as published for SDXL (Kynkaanniemi et al.
    2024, arXiv 2404.07724). Both branches are run at every level, so the price stays the same.
    """

    pipe: Any
    """The diffusers pipeline."""
    net: Any
    """Its denoiser: `unet` or `transformer`."""
    vae: Any
    device: torch.device
    """Where latents are kept."""
    dtype: torch.dtype
    """The number format of the denoiser."""
    guidance_scale: float
    negative_prompt: str | None
    size: tuple[int, int]
    """(height, width) in pixels"""
    latent: tuple[int, int, int]
    """(C, h, w)"""

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
        """Load or borrow a pipeline.

        Args:
            source: a hub name, a folder, a checkpoint file (then `loading` goes to `_load.load`) or a live pipeline,
                which is used where it is and given back unchanged by `release`.
            loading: the settings named in the class attribute `loading`.
            height: in pixels; None is what the network was trained for.
            width: as `height`.
            cfg: scale of classifier-free guidance; 1 or less runs one branch only.
            negative_prompt: the text of the unconditional branch; None is the empty text.
            pipeline: the class to load, where it is not `family`.

        """
        loading = dict(loading)
        compiled = bool(loading.pop("compile", False))
        self._interval = _load.guidance_interval(loading.pop("guidance_interval", (0.0, 1.0)))
        self._given = {name: loading.pop(name) for name in _given.NAMES if name in loading}
        pictures = {name: loading.pop(name) for name in PICTURE_SETTINGS if name in loading}
        self._give_back: list[Callable[[], None]] = []
        self._take(source, loading, pipeline or self.family)
        _given.check_names(self._given, self.pipe)
        self.guidance_scale = float(cfg)
        self.negative_prompt = negative_prompt
        self._choose_size(height, width, pictures.get("image"))
        self.start_noise = _given.start_noise(self._given, self.latent)
        self._meter: Meter | None = None
        self._limit = 1 << 30
        """Rows that fit in memory at once, as far as is known."""
        self._decode_limit = self._limit
        hook = self.net.register_forward_pre_hook(self._charge, with_kwargs=True)
        self._give_back.append(hook.remove)
        self._take_pictures(pictures)
        if compiled:
            self.compile()

    def _take(self, source: Any, loading: Mapping[str, Any], family: str) -> None:
        """The pipeline and its parts; a live pipeline is borrowed."""
        live = not isinstance(source, str)
        ignored = sorted(set(loading) - {"device", "dtype"})
        if live and ignored:
            raise FairleadError(
                f"A live pipeline is used as it is, so {ignored[0]} has no effect: set it on the pipeline."
            )
        self.pipe = source if live else _load.load(source, family, **loading)
        self._text_away = not live and loading.get("cpu_offload") not in ("model", "group") and self._split()
        self.net = _load.denoiser(self.pipe)
        _borrow.refuse_adapters(self.pipe, self.net)
        self._give_back.append(_borrow.claim(self.pipe))
        self._give_back.append(_borrow.freeze(self.pipe))
        self.vae = self.pipe.vae
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.to(torch.float32)
            self._give_back.append(lambda: self.vae.to(torch.float16))
        self.device = self.net.device if self._text_away else torch.device(self.pipe._execution_device)
        self.dtype = self.net.dtype

    def _split(self) -> bool:
        """True if the text encoders were left on another device than the denoiser."""
        return any(one.device.type != _load.denoiser(self.pipe).device.type for one in self._text_encoders())

    def _text_encoders(self) -> list[Any]:
        return [v for k, v in self.pipe.components.items() if k.startswith("text_encoder") and v is not None]

    # Hooks: what a family defines.

    def size_multiple(self) -> int:
        """Every side must be a multiple of this many pixels."""
        return int(self.pipe.vae_scale_factor)

    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels the network was trained for."""
        side = self.net.config.get("sample_size") or self.pipe.default_sample_size
        h, w = (side, side) if isinstance(side, int) else side
        return int(h * self.pipe.vae_scale_factor), int(w * self.pipe.vae_scale_factor)

    def latent_channels(self) -> int:
        """C, the channels of a latent."""
        return int(self.net.config.in_channels)

    @abstractmethod
    def encode_text(self, prompts: list[str]) -> dict[str, Tensor]:
        """Prompts -> `tokens` [B, T, D] and everything else that the network receives with them, [B, ...] each."""

    def encode_negative(self) -> dict[str, Tensor]:
        """The same for the negative prompt, one row."""
        return self.encode_text([self.negative_prompt or ""])

    @abstractmethod
    def run_network(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """x [R, C, h, w] -> the network's raw output [R, C, h, w], float32."""

    def guide(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Both raw outputs [R, C, h, w] -> the guided one (Ho and Salimans 2022, eq. 6)."""
        return negative + self.guidance_scale * (positive - negative)

    def further_guidance(self, out: Tensor, positive: Tensor, rows: Rows, again: Callable[[], Tensor]) -> Tensor:
        """The guided output with what further calls add to it; `again` runs the conditional half once more, charged."""
        return out

    def rows_each(self, rows: Rows) -> int:
        """Network rows of one evaluation in this step; the default is `branches`."""
        return self.branches

    def clean_prediction(self, x: Tensor, at: Level, out: Tensor) -> Tensor:
        """x and the guided output [R, C, h, w] -> clean prediction x0 [R, C, h, w]; the default reads the output as a
        flow velocity.
        """
        return x - at.sigma * out

    def decode_latents(self, z: Tensor) -> Tensor:
        """Unscaled latents [B, C, h, w] -> pictures [B, 3, H, W] in [-1, 1]."""
        return self.vae.decode(z, return_dict=False)[0]  # type: ignore[no-any-return]

    # What all families share.

    @property
    def branches(self) -> int:
        """2 under classifier-free guidance, else 1."""
        return 2 if self.guidance_scale > 1 else 1

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> tokens [B, T, D]; under guidance the negative prompt is kept as `negative` and `negative_*`."""
        with self._encoders_here():
            parts = self.encode_text(list(prompts))
            if self.branches == 2:
                for name, value in self.encode_negative().items():
                    key = "negative" if name == "tokens" else f"negative_{name}"
                    parts[key] = value.expand(len(prompts), *value.shape[1:])
        parts = _given.with_given(parts, self._given, len(prompts), self.pipe)
        return Conditioning(parts.pop("tokens"), tuple(prompts), parts)

    @contextmanager
    def _encoders_here(self) -> Iterator[None]:
        """Text encoders that are kept on the CPU are on the device while they work."""
        away = self._text_encoders() if self._text_away else []
        for encoder in away:
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in away:
                encoder.to("cpu")

    def predict(self, x: Tensor, at: Level, cond: Conditioning, rows: Rows) -> Tensor:
        """x [R, C, h, w] -> guided clean prediction x0 [R, C, h, w], float32."""
        if self._edits:
            one_prompt_a_group(cond.prompts, rows)
        x = self.seen(x, at, rows)
        tokens = self._edited_prompt(x, cond.tokens, cond.extra.get("mask"), rows)
        extra = {k: v for k, v in cond.extra.items() if not k.startswith("negative")}

        def conditional() -> Tensor:
            return self._in_chunks(x, at, tokens, extra, rows)

        if self.branches == 1:
            return self.with_known(self.clean_prediction(x, at, conditional()))
        both_tokens = torch.cat([cond.extra["negative"].to(tokens.dtype), tokens])
        both_extra = {k: torch.cat([cond.extra[f"negative_{k}"].to(v.dtype), v]) for k, v in extra.items()}
        both = self._in_chunks(torch.cat([x, x]), at, both_tokens, both_extra, rows.doubled())
        negative, positive = both.chunk(2)
        low, high = self._interval
        out = self.guide(negative, positive) if low <= at.time <= high else positive
        out = self.further_guidance(out, positive, rows, conditional)
        return self.with_known(self.clean_prediction(x, at, out))

    def _in_chunks(self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The network over all rows, charged once; halved when memory runs out, never between rows that see each
        other.
        """
        if self._meter is not None:
            self._meter.charge(Cost(forwards=len(x)))
        labels = torch.stack([rows.group, rows.replica, rows.conditional.long()], 1) if self._edits else None
        pieces = together(labels, len(x))
        done: list[Tensor] = []
        order: list[int] = []
        start = 0
        while start < len(pieces):
            stop = start + 1
            size = len(pieces[start])
            while stop < len(pieces) and size + len(pieces[stop]) <= self._limit:
                size += len(pieces[stop])
                stop += 1
            here = [row for piece in pieces[start:stop] for row in piece]
            out = self._attempt(x, at, tokens, extra, rows, here)
            if out is not None:
                done.append(out)
                order += here
                start = stop
            elif stop - start == 1:
                raise OutOfMemory(
                    f"Memory ran out on {self.device} with {size} row(s) of {self.size[1]}x{self.size[0]} pixels: "
                    "use a smaller width and height, dtype bfloat16, a smaller group, or cpu_offload model."
                )
            else:
                self._limit = max(1, size // 2)
        if len(done) == 1 and order == sorted(order):
            return done[0]
        return torch.cat(done)[torch.tensor(order).argsort()]

    def _attempt(
        self, x: Tensor, at: Level, tokens: Tensor, extra: Mapping[str, Tensor], rows: Rows, here: list[int]
    ) -> Tensor | None:
        """The network on some of the rows; None if they did not fit."""
        self._rows = rows
        paid = _borrow.PAID.set(True)
        if here != list(range(len(x))):
            cpu = torch.tensor(here)
            on_device = cpu.to(x.device)
            x = x[on_device]
            tokens = tokens[on_device]
            extra = {k: v[on_device] for k, v in extra.items()}
            self._rows = replace(
                rows,
                base=rows.base[cpu],
                group=rows.group[cpu],
                replica=rows.replica[cpu],
                conditional=rows.conditional[cpu],
            )
        self._mask = extra.get("mask") if self._edits else None
        try:
            return self.run_network(x, at, tokens, extra)
        except torch.OutOfMemoryError:
            pass
        finally:
            _borrow.PAID.reset(paid)
        empty_cache()
        return None

    def decode(self, x: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32; in halves when memory runs out."""
        if self._meter is not None:
            self._meter.charge(Cost(decodes=len(x)))
        z = self.unscale(self.with_known(x)).to(self.vae.dtype)
        while True:
            try:
                parts = [self.decode_latents(part).float() for part in torch.split(z, self._decode_limit)]
                return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
            except torch.OutOfMemoryError:
                size = min(len(z), self._decode_limit)
            empty_cache()
            if size == 1:
                raise OutOfMemory(
                    f"Memory ran out on {self.device} while decoding one picture of {self.size[1]}x{self.size[0]} "
                    "pixels: use vae_tiling, or a smaller width and height."
                )
            self._decode_limit = size // 2

    def unscale(self, x: Tensor) -> Tensor:
        """Latents as the autoencoder made them, from the normalised ones of the network."""
        factor = float(self.vae.config.scaling_factor)
        if (moments := self.latent_moments(x)) is not None:
            mean, std = moments
            return x * (std / factor) + mean
        return x / factor + float(self.vae.config.get("shift_factor") or 0.0)

    @property
    def autoencoder(self) -> dict[str, Any]:
        """Class, channels and normalisation of the decoder."""
        names = ("latent_channels", "scaling_factor", "shift_factor", "latents_mean", "latents_std")
        config = self.vae.config
        known = {name: config.get(name) for name in names if config.get(name) is not None}
        return {"class": type(self.vae).__name__, **known}

    def networks(self) -> Iterator[Tensor]:
        """The weights that stay on the device."""
        for name, part in self.pipe.components.items():
            if isinstance(part, torch.nn.Module) and not (self._text_away and name.startswith("text_encoder")):
                yield from part.parameters()

    def trace(self, gradient: bool = False) -> list[Callable[[], Tensor]]:
        """One picture through network and decoder, with `gradient` also backwards, to measure memory; not charged."""
        cond = self.encode([""])
        at = self.levels(2)[0]

        def uncharged(work: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
            def run() -> Tensor:
                meter = self._meter
                self._meter = None
                try:
                    x = torch.zeros(1, *self.latent, device=self.device, requires_grad=gradient)
                    with torch.set_grad_enabled(gradient):
                        out = work(x)
                        return torch.autograd.grad(out.sum(), x)[0] if gradient else out
                finally:
                    self._meter = meter

            return run

        return [uncharged(lambda x: self.predict(x, at, cond, whole(1, at))), uncharged(self.decode)]

    def meter(self, meter: Meter) -> None:
        """From now on every row of the network and every decoded latent is charged before the work."""
        self._meter = meter

    def _charge(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Charge a call of the network that did not come from `predict`."""
        if self._meter is not None and not _borrow.PAID.get():
            name = "hidden_states" if "hidden_states" in kwargs else "sample"
            self._meter.charge(Cost(forwards=len(kwargs[name] if name in kwargs else args[0])))

    def compile(self, **options: Any) -> None:
        """Compile every repeated block's `forward`. Hooks stay outside, so counting and edits work as before."""
        names = getattr(self.net, "_repeated_blocks", None) or getattr(self.net, "_no_split_modules", None) or ()
        for module in self.net.modules():
            if type(module).__name__ in names and "forward" not in vars(module):
                module.forward = Compiled(module.forward, torch.compile(module.forward, **options))
                self._give_back.append(lambda module=module: module.__dict__.pop("forward", None))  # type: ignore[misc]

    def release(self) -> None:
        """Give the pipeline back as it was found; the adapter is not used afterwards."""
        while self._give_back:
            self._give_back.pop()()
        self._meter = None
