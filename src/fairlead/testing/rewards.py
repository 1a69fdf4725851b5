"""Laws of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fairlead.core.cost import INFINITE, BudgetExceeded, Cost, Meter, Unmetered
from fairlead.core.key import normals
from fairlead.core.reward import Reward
from fairlead.testing._check import (
    close,
    equal,
    global_randomness_untouched,
    keys,
    law,
    prompts,
    raises,
    weights_in_graph,
)


def pictures(n: int, side: int = 32) -> Tensor:
    """[n, 3, side, side] smooth random pictures in [0.2, 0.8], row i the same for every n."""
    coarse = normals(keys(n, "picture"), 3, 6, 6)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return 0.5 + 0.3 * torch.tanh(smooth)


def reward_laws(
    reward: Reward, images: Tensor | None = None, prompt: Sequence[str] | None = None, *, tolerance: float = 1e-4
) -> None:
    """Checks: [B] float32 with every leaf's term; the same twice; independent of batch and order; nothing written to;
    prompts ignored where it says so; no gradient into weights; the gradient where it claims one; every leaf charges.
    """
    images = pictures(5) if images is None else images
    words = prompts(len(images)) if prompt is None else list(prompt)
    n = len(images)
    before = images.clone()
    law(bool(reward.name), "The reward has no name.")
    reward = reward.copy()
    with global_randomness_untouched("The reward"), torch.no_grad():
        total, terms = reward(images, words)
        again, _ = reward(images.clone(), words)
        ones = [reward(images[i : i + 1], words[i : i + 1])[0] for i in range(n)]
        order = list(reversed(range(n)))
        turned, _ = reward(images[order], [words[i] for i in order])
    equal(images, before, "The reward wrote to the images")
    law(
        total.shape == (n,) and total.dtype == torch.float32,
        f"The reward is {tuple(total.shape)} {total.dtype}, not [B] float32.",
    )
    leaves = {name for name in terms if name in reward.labels() or name.partition(".")[0] not in reward.labels()}
    law(leaves == set(reward.labels()), f"Terms {sorted(terms)} are not the leaves {sorted(reward.labels())}.")
    law(all(t.shape == (n,) for t in terms.values()), "A term is not [B].")
    equal(again, total, "The same images scored twice differ")
    close(torch.cat(ones), total, "Rewards depend on the batch", tolerance)
    close(turned, total[order], "Rewards do not follow their images when the batch is reordered", tolerance)
    if n > 1:
        law(len(set(total.tolist())) > 1, "Every picture has the same reward: it looks at nothing.")
    if not any(leaf.needs_prompt for leaf in reward.leaves()):
        with torch.no_grad():
            equal(
                reward(images, ["something else"] * n)[0],
                total,
                "It says it needs no prompt, and another prompt changed it",
            )
    with torch.no_grad():
        flat = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
        law(reward(flat, words[:2])[0].shape == (2,), "Black and white pictures do not get one number each.")
    if reward.differentiable:
        _gradient(reward, images, words)
    _metered(reward, images, words)


def _gradient(reward: Reward, images: Tensor, words: Sequence[str]) -> None:
    x = images.clone().requires_grad_()
    total, _ = reward(x, words)
    law(total.requires_grad, "The reward claims to be differentiable, and no gradient reaches the images.")
    leaked = weights_in_graph(total, [x])
    law(not leaked, f"Gradients flow into {len(leaked)} weights, for example {leaked[:1]}: freeze them.")
    (slope,) = torch.autograd.grad(total.sum(), x)
    law(bool(slope.isfinite().all()), "The gradient is not finite.")
    one = images.clone().requires_grad_()
    (alone,) = torch.autograd.grad(reward(one, words)[0][0], one)
    law(bool((alone[1:] == 0).all()), "The reward of one image has a gradient into another.")
    size = slope.flatten(1).norm(dim=1)
    law(bool((size > 0).all()), "The gradient of an image is zero.")
    along = slope / size[:, None, None, None]
    gaps = []
    with torch.no_grad():
        for step in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
            up = reward(images + step * along, words)[0]
            down = reward(images - step * along, words)[0]
            gaps.append(((up - down) / (2 * step) - size).abs() / size)
    worst = float(torch.stack(gaps).min(0).values.max())
    law(worst < 0.05, f"The gradient differs from finite differences by {100 * worst:.1f} percent.")


def _metered(reward: Reward, images: Tensor, words: Sequence[str]) -> None:
    """Charged before it looks, leaf by leaf; refused outside a grant."""
    reward = reward.copy()
    meter = Meter()
    n = len(images)
    reward.meter(meter)
    raises(Unmetered, lambda: reward(images, words), "A metered reward saw images outside a grant.")
    for leaf in reward.leaves():
        raises(Unmetered, partial(leaf.score, images, words), f"Leaf {leaf.name!r} saw images outside a grant.")
    with torch.no_grad(), meter.grant(INFINITE):
        reward(images, words)
    law(
        meter.spent.scores == n * len(reward.leaves()),
        f"{meter.spent.scores:g} scores were charged for {n} images and {len(reward.leaves())} leaves: each leaf once.",
    )
    before = meter.spent.scores
    with meter.grant(Cost(scores=n - 1, seconds=60)):
        raises(BudgetExceeded, lambda: reward(images, words), "A reward ran past its grant.")
    law(meter.spent.scores == before, "A refused call was charged.")
