"""Plain pictures for many prompts: what a benchmark asks of a model, through the same loop as every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, Meter
from fairlead.core.key import Key, normals
from fairlead.core.model import Model, started
from fairlead.core.samplers import Sampler, sampler_for
from fairlead.core.sampling import sample
from fairlead.run import machine, memory, models, registry
from fairlead.run.spec import Spec


class Renderer:
    """One loaded model; `spec` says sampler, steps, batch and model settings, its prompt is not used."""

    def __init__(self, spec: Spec) -> None:
        device = machine.device()
        self.model: Model = models.build(
            spec, device=device, dtype=str(spec.model.settings.get("dtype") or machine.dtype(device))
        )
        self.meter = Meter()
        self.spec = memory.fitted(spec, self.model)
        self.model.meter(self.meter)
        self._sampler: Sampler = sampler_for(registry.resolve("samplers", spec.sampler), self.model)

    def __call__(self, prompts: Sequence[str], seed: int) -> Tensor:
        """Prompts of length B -> images [B, 3, H, W] in [0, 1], rounded to 8 bits.

        Picture i depends on the seed, on its prompt and on how often that prompt came before, not on its neighbours.
        """
        seen: dict[str, int] = {}
        keys = []
        for prompt in prompts:
            seen[prompt] = seen.get(prompt, 0) + 1
            keys.append(Key.root(seed).fold("render", prompt, seen[prompt] - 1))
        return self.draw(prompts, keys)

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], keys: Sequence[Key]) -> Tensor:
        """The same with a key for each picture: two prompts with one key start from one noise."""
        out = []
        levels = self.model.levels(self.spec.steps)
        for first in range(0, len(prompts), self.spec.batch):
            some = prompts[first : first + self.spec.batch]
            own = tuple(keys[first : first + self.spec.batch])
            with self.meter.grant(INFINITE):
                x = normals(tuple(k.fold("init") for k in own), *self.model.latent).to(self.model.device)
                x = started(self.model, x, levels[0])
                z = sample(self.model, self._sampler, x, self.model.encode(some), levels, own, self.meter)
                out.append((self.model.decode(z) * 255).round().cpu() / 255)
        return torch.cat(out)
