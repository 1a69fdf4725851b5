"""Picture inputs of an adapter: where sampling starts, and what of a picture is kept.

With `image`, a trajectory starts at the noised picture, at the level that `strength` leaves (SDEdit, Meng et al. 2022,
arXiv 2108.01073). The steps above it are left out, as many as the family's own pipeline leaves out. With `mask`, the
part that is black there is the picture's own at every level: it is put into every clean prediction (Lugmayr et al.
2022, arXiv 2201.09865, eq. 8, without its resampling). So searches, steerings and previews see it without knowing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.core.model import Level, Rows
from fairlead.core.twins import nearest_to
from fairlead.models.own_scheduler import STARTS_ONCE, OwnScheduler

IMAGE = frozenset({"image", "strength"})
"""Settings of families that start from a picture."""
MASK = IMAGE | {"mask"}
"""Settings of families that also keep a part of it."""
PICTURE_SETTINGS = MASK


class PictureInputs(OwnScheduler):
    """The part of an adapter that reads pictures. `inputs` says which of the settings a family takes."""

    inputs: ClassVar[frozenset[str]] = frozenset()

    vae: Any
    device: torch.device
    size: tuple[int, int]
    latent: tuple[int, int, int]
    strength = 1.0
    """Share of the schedule that is walked."""
    _clean: Tensor | None = None
    """The picture's latent [1, C, h, w]; None without a picture."""
    _repaint: Tensor | None = None
    """[1, 1, h, w]: 1 where the picture is made anew; None where all of it is."""

    @abstractmethod
    def size_multiple(self) -> int:
        """Every side must be a multiple of this many pixels."""

    @abstractmethod
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels the network was trained for."""

    @abstractmethod
    def latent_channels(self) -> int:
        """C, the channels of a latent."""

    def _choose_size(self, height: int | None, width: int | None, image: Any) -> None:
        """Picture and latent sizes; sides that the network cannot have are rejected.

        A picture input decides the shape where no side was chosen, at the area that the network was trained for.
        """
        multiple = self.size_multiple()
        for name, side in (("height", height), ("width", width)):
            if side is not None and (side < multiple or side % multiple):
                raise FairleadError(f"{name} is {side}: must be a multiple of {multiple} pixels.")
        default = self.default_size()
        self.size = (height or default[0], width or default[1])
        if image is not None:
            fitting = fitting_size(image.height, image.width, self.size[0] * self.size[1], multiple)
            if height is None and width is None:
                self.size = fitting
            elif _distorts((image.height, image.width), self.size, multiple):
                raise FairleadError(
                    f"The input picture is {image.width}x{image.height}, which does not have the shape of "
                    f"{self.size[1]}x{self.size[0]}: crop it, or use --width {fitting[1]} --height {fitting[0]}."
                )
        scale = int(self.pipe.vae_scale_factor)
        self.latent = (self.latent_channels(), self.size[0] // scale, self.size[1] // scale)

    def _take_pictures(self, given: Mapping[str, Any]) -> None:
        """Encode the picture inputs, once for all candidates."""
        image = given.get("image")
        if image is None:
            return
        self.strength = float(given.get("strength", 1.0))
        height, width = self.size
        with torch.no_grad():
            pixels = self.pipe.image_processor.preprocess(image, height=height, width=width)
            self._clean = self.encode_picture(pixels, Key.root(0).fold("input picture")).float()
        if given.get("mask") is not None:
            self._repaint = self._latent_mask(given["mask"])

    def _latent_mask(self, mask: Any) -> Tensor:
        """A grey picture -> [1, 1, h, w] of 0 and 1, as diffusers' pipelines make it."""
        from diffusers.image_processor import VaeImageProcessor

        processor = VaeImageProcessor(
            vae_scale_factor=int(self.pipe.image_processor.config.vae_scale_factor),
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        pixels = processor.preprocess(mask, height=self.size[0], width=self.size[1])
        return F.interpolate(pixels, self.latent[1:]).to(self.device)

    def encode_picture(self, pixels: Tensor, key: Key) -> Tensor:
        """Pixels [1, 3, H, W] in [-1, 1] -> the normalised latent [1, C, h, w] that the network knows.

        The encoder's own noise, which the pipelines draw from their generator, is that of `key` for every candidate.
        """
        found = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        return self.scaled(found.mean + found.std * key.normal(*found.mean.shape).to(found.mean))

    def scaled(self, z: Tensor) -> Tensor:
        """The inverse of `unscale`: normalised latents from those that the autoencoder made."""
        factor = float(self.vae.config.scaling_factor)
        if (moments := self.latent_moments(z)) is not None:
            mean, std = moments
            return (z - mean) * (factor / std)
        return (z - float(self.vae.config.get("shift_factor") or 0.0)) * factor

    def latent_moments(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the autoencoder's channels [1, C, 1, 1]; None where it knows one number for all."""
        told = [self.vae.config.get(name) for name in ("latents_mean", "latents_std")]
        if None in told:
            return None
        mean, std = (torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1) for values in told)
        return mean, std

    # Where sampling starts.

    def left_out(self, steps: int) -> int:
        """Steps above the level of `strength`, by the arithmetic of the family's pipeline."""
        return int(max(steps - min(steps * self.strength, steps), 0))

    def check_steps(self, steps: int) -> None:
        """Reject a strength that leaves no step."""
        if self._clean is not None and self.left_out(steps) >= steps:
            raise FairleadError(
                f"strength is {self.strength:g} and steps is {steps}: no step is left. Use a strength of "
                f"{math.ceil(100 / steps) / 100:g} or more, or more steps."
            )

    def levels(self, steps: int) -> Sequence[Level]:
        """The levels below the strength of a picture input, at least one move; all levels without a picture."""
        whole = self.whole_levels(steps)
        return whole if self._clean is None else whole[min(self.left_out(steps), steps - 1) :]

    def whole_steps(self, moves: int) -> list[int]:
        """The numbers of steps whose schedules have so many moves below the strength."""
        if self._clean is None:
            return [moves]
        most = int((moves + 1) / self.strength) + 2
        return [n for n in range(moves, most) if n - min(self.left_out(n), n - 1) == moves]

    def started_late(self, sampler: str) -> str:
        """That a scheduler which can only start at its first step does not take these."""
        name = type(self.pipe.scheduler).__name__
        if self._clean is None or sampler != "scheduler" or name not in STARTS_ONCE or self.strength == 1.0:
            return ""
        return (
            f"{name} can only start at its first step, and a picture starts below it: the sampler {nearest_to(name)} "
            "takes the steps. Choose another with --sampler."
        )

    def start(self, noise: Tensor, at: Level) -> Tensor:
        """Unit noise [B, C, h, w] -> the state at the first level."""
        if self._clean is None:
            return noise
        noised = at.alpha * self._clean + at.sigma * noise
        return noised if self._repaint is None or not self._from_noise else self._joined(noise, noised)

    @property
    def _from_noise(self) -> bool:
        """True if what is repainted starts from noise alone, as in diffusers' inpainting at strength 1."""
        return self._repaint is not None and self.strength == 1.0

    # What of a picture is kept.

    def _joined(self, new: Tensor, own: Tensor) -> Tensor:
        """`new` [B, C, h, w] where the mask is white, `own` where it is black."""
        assert self._repaint is not None
        return self._repaint * new + (1 - self._repaint) * own

    def with_known(self, x0: Tensor) -> Tensor:
        """A clean prediction [R, C, h, w] with the part of the picture that is kept."""
        if self._repaint is None or self._clean is None:
            return x0
        return self._joined(x0, self._clean)

    def seen(self, x: Tensor, at: Level, rows: Rows) -> Tensor:
        """x [R, C, h, w] as the network sees it: at strength 1 its first input is noise also where a part is kept."""
        if not self._from_noise or rows.step != 0 or at != rows.level or self._clean is None:
            return x
        return self._joined(x, (x - at.alpha * self._clean) / at.sigma)


def fitting_size(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) of about this area in the shape of a picture, both sides a multiple."""
    scale = math.sqrt(area / (height * width))
    return max(multiple, _to(height * scale, multiple)), max(multiple, _to(width * scale, multiple))


def _to(value: float, multiple: int) -> int:
    return round(value / multiple) * multiple


def _distorts(old: tuple[int, int], new: tuple[int, int], multiple: int) -> bool:
    """True if resizing would stretch a picture by more than rounding its sides to a multiple does."""
    wanted = new[1] * old[0] / old[1]
    return abs(wanted - new[0]) > multiple and abs(new[0] * old[1] / old[0] - new[1]) > multiple
