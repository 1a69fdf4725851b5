"""Picture inputs of a run: read from files and objects, named by digest, stored with the run. Imports no torch.

A Spec holds the digest of every input picture, so that two runs with the same name start from the same picture. The
picture itself is kept by this process, and in `inputs/<digest>.png` of the run's folder, as pixels alone: what a camera
wrote beside them (place, date, owner) is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.core.check import number_in_range
from fairlead.core.errors import FairleadError, StoreError
from fairlead.run.files import is_file, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from fairlead.run.part import Part

FOLDER = "inputs"
MODES = {"image": "RGB", "mask": "L"}
"""Settings of a model that are pictures, with what they are read as."""
SETTINGS = (*MODES, "strength")
"""All settings that only picture inputs have."""
MOST_PIXELS = 1 << 26
"""A picture of 8192x8192; larger ones would fill the memory of most machines."""
STRENGTH = {False: 0.6, True: 1.0}
"""The usual strength, without and with a mask."""
DIGEST = re.compile(r"[0-9a-f]{32}")
_known: dict[str, Image] = {}
"""The pictures of this process by digest."""


def recorded(model: Part) -> Part:
    """The model's settings with digests in place of pictures, and with the strength that is meant; all checked."""
    settings = dict(model.settings)
    given = [name for name in SETTINGS if settings.get(name) is not None]
    if not given:
        return model
    if settings.get("image") is None:
        raise FairleadError(f"{given[0]} acts on an input picture, and this run has none. Add --image FILE.")
    for name in MODES:
        if settings.get(name) is not None:
            settings[name] = _named(settings[name], name)
    if "mask" in given:
        _check_mask(_known[settings["mask"]], _known[settings["image"]])
    settings.setdefault("strength", STRENGTH["mask" in given])
    number_in_range("strength", settings["strength"], "(0, 1]")
    return replace(model, settings=settings)


def pictures(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with pictures in place of digests, as adapters take them."""
    out = dict(settings)
    for name in MODES:
        if isinstance(out.get(name), str):
            out[name] = picture(out[name])
    return out


def picture(digest: str) -> Image:
    """The picture of a digest that this process has read."""
    if digest not in _known:
        raise FairleadError(f"The input picture {digest} is not here. Pass its file again, with --image FILE.")
    return _known[digest]


def read(value: Any) -> Image:
    """A picture from a file or an object."""
    return _known[_named(value, "image")]


def of_run(model: Part) -> Image | None:
    """The input picture of a run's model, if there is one."""
    digest = model.settings.get("image")
    return picture(digest) if isinstance(digest, str) else None


def digests(model: Part) -> list[str]:
    """The input pictures of a model in a Spec."""
    found = [model.settings[name] for name in MODES if model.settings.get(name) is not None]
    return list(dict.fromkeys(found))


def check_stored(model: Part) -> None:
    """Raise where a stored setting cannot be what `recorded` makes."""
    for digest in digests(model):
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise TypeError(f"an input picture is {digest!r:.60}, which is no digest")


# with the run


def path_of(folder: Path, digest: str) -> Path:
    """Where a run keeps an input picture."""
    return folder / FOLDER / f"{digest}.png"


def keep(folder: Path, model: Part) -> None:
    """Write the input pictures of a run into its folder."""
    for digest in digests(model):
        (folder / FOLDER).mkdir(exist_ok=True)
        stream = BytesIO()
        picture(digest).save(stream, format="PNG")
        write_atomically(path_of(folder, digest), stream.getvalue())


def restore(folder: Path, model: Part) -> None:
    """Read the input pictures of a stored run, which may come from anybody: only PNG, of a bounded size, unchanged."""
    for name in MODES:
        digest = model.settings.get(name)
        if digest is None or digest in _known:
            continue
        path = path_of(folder, digest)
        if not is_file(path):
            raise StoreError(f"{path} is missing, the input picture of the run: restore it, or start the run again.")
        try:
            found = _opened(path, name, ("PNG",))
        except FairleadError as error:
            raise StoreError(f"{path} is damaged ({error}): restore it, or start the run again.") from error
        if _digest(found) != digest:
            raise StoreError(f"{path} is not the picture that the run was started with: restore it.")
        _known[digest] = found


# reading


def _named(value: Any, name: str) -> str:
    """The digest of a picture from a file, an object, or a digest that is known already."""
    if isinstance(value, str) and value in _known and not is_file(Path(value)):
        return value
    if isinstance(value, str | os.PathLike):
        found = _opened(Path(os.path.expanduser(value)), name)
    else:
        found = _plain(_from_object(value, name), name, f"{name}")
    digest = _digest(found)
    _known[digest] = found
    return digest


def _digest(image: Image) -> str:
    """Names the pixels, however they are stored."""
    found = blake2b(f"{image.mode} {image.size} ".encode(), digest_size=16)
    found.update(image.tobytes())
    return found.hexdigest()


def _opened(path: Path, name: str, formats: tuple[str, ...] | None = None) -> Image:
    """The picture in a file, upright, without anything but its pixels."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    if not is_file(path):
        raise FairleadError(f"{name} is {str(path)!r}, which is not a file. Check its path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by the sizes in the file
            with Image.open(path, formats=formats) as found:
                return _plain(found, name, str(path))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise FairleadError(f"{name} is {str(path)!r}, {_too_large()}") from error
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({str(error).splitlines()[0]:.100})"
        raise FairleadError(
            f"{name} is {str(path)!r}, which cannot be read as a picture{why}. Save it as PNG or JPEG."
        ) from error


def _too_large() -> str:
    return f"which has more than {MOST_PIXELS / 1e6:.0f} million pixels. Make it smaller first."


def _plain(image: Image, name: str, called: str) -> Image:
    """One upright picture in the mode of its input; what cannot be meant is refused."""
    from PIL import Image, ImageOps

    if image.width * image.height > MOST_PIXELS:
        raise FairleadError(f"{name} is {called!r}, {_too_large()}")
    if getattr(image, "n_frames", 1) > 1:
        raise FairleadError(f"{name} is {called!r}, which holds several pictures. Save the one you mean.")
    upright = ImageOps.exif_transpose(image) or image
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        if _range(upright.convert("RGBA").getchannel("A"))[0] < 255:
            raise FairleadError(
                f"{name} is {called!r}, which is transparent in places. Put it over the background that you want, and "
                "name a part to repaint with --mask."
            )
        upright = upright.convert("RGBA")
    if upright.mode.startswith(("I", "F")):
        low, high = _range(upright)
        if upright.mode.startswith("F") or low < 0 or high > 65535:
            raise FairleadError(f"{name} is {called!r}, which has values of mode {upright.mode}. Save it with 8 bits.")
        upright = upright.convert("I").point(lambda value: value / 257).convert("L")
    out = Image.new(MODES[name], upright.size)
    out.paste(upright.convert(MODES[name]))
    return out


def _from_object(value: Any, name: str) -> Image:
    """A PIL picture, an array [H, W, 3] of bytes or of numbers in [0, 1], or a tensor [3, H, W] in [0, 1]."""
    import numpy as np
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    array = value
    if hasattr(value, "detach"):
        array = value.detach().float().cpu().numpy()
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    if isinstance(array, np.ndarray) and array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not isinstance(array, np.ndarray) or (array.ndim != 2 and array.shape[-1:] != (3,)) or not array.size:
        shape = tuple(getattr(value, "shape", ()))
        raise FairleadError(
            f"{name} is of type {type(value).__name__}{f' and shape {shape}' if shape else ''}: must be a file, a PIL "
            "picture, an array [H, W, 3], or a tensor [3, H, W] in [0, 1]."
        )
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    numbers = np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all())
    if not numbers or array.min() < 0 or array.max() > 1:
        raise FairleadError(f"{name} has values of {array.dtype}: must be bytes, or finite numbers in [0, 1].")
    return Image.fromarray((array * 255).round().astype(np.uint8))


def _range(image: Image) -> tuple[float, float]:
    """The lowest and the highest value of a picture of one channel."""
    low, high = image.getextrema()
    return float(low), float(high)  # type: ignore[arg-type]


def _check_mask(mask: Image, image: Image) -> None:
    """A mask of the picture's size with something white."""
    if mask.size != image.size:
        raise FairleadError(
            f"mask is {mask.width}x{mask.height} and image is {image.width}x{image.height}: must be of the same size."
        )
    if _range(mask)[1] < 128:
        raise FairleadError("mask is black everywhere, so nothing would be repainted: white is what is made anew.")
