"""Named randomness: a key is a path, and drawing from it never changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Key:
    """Digest of the path that led here. Folding makes another key, drawing changes nothing.

    Batch, order, device, process and number of workers are not in the path, so they cannot matter.
    Fold per item, then draw per item: the first 8 of 16 candidates are then the 8 candidates.
    """

    digest: bytes
    """16 bytes."""

    @staticmethod
    def root(seed: int) -> Key:
        """The key every draw of a run descends from."""
        return Key(blake2b(f"fairlead:{seed}".encode(), digest_size=16).digest())

    def fold(self, *path: str | int) -> Key:
        """A key further down the path. Folding twice is not folding a longer path once."""
        h = blake2b(self.digest, digest_size=16)
        for part in path:
            coded = f"{type(part).__name__}:{part}".encode()
            h.update(len(coded).to_bytes(4, "little") + coded)
        return Key(h.digest())

    def _bits(self, n: int) -> NDArray[np.uint64]:
        raw = np.random.Philox(key=int.from_bytes(self.digest, "little")).random_raw(n)  # noqa: TID251
        return np.asarray(raw, dtype=np.uint64)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal of that shape, float32 on the cpu: Box-Muller in float64 on Philox bits, rounded once.

        Raw counter bits, not a library's normal stream, because those may change between releases.
        """
        import torch

        n = math.prod(shape)
        half = (n + 1) // 2
        u = (self._bits(2 * half) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-u[:half]))
        angle = 2.0 * np.pi * u[half:]
        flat = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n].astype(np.float32)
        return torch.from_numpy(flat.reshape(shape))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1) of that shape, float64 on the cpu."""
        import torch

        u = (self._bits(max(1, math.prod(shape))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return torch.from_numpy(u[: math.prod(shape)].reshape(shape))

    def integer(self) -> int:
        """63 bits, for foreign code that insists on a seed."""
        return int(self._bits(1)[0] >> np.uint64(1))

    def hex(self) -> str:
        """The digest as text, for records."""
        return self.digest.hex()


def normals(keys: tuple[Key, ...], *shape: int) -> Tensor:
    """[B, *shape] float32 cpu: row b is drawn from `keys[b]` alone."""
    import torch

    return torch.stack([key.normal(*shape) for key in keys])
