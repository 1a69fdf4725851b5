"""The same searches the way a script over diffusers does them, and through fairlead: images/s, side by side in one run.

    python -m experiments.noise_search.peer run [--turns 5] [--images 30] [--steps 20]
    python -m experiments.noise_search.peer run --quick

The peer side is written from the reference tool's behaviour (tt-scale-flux, see the specification's section 6), on
the same loaded pipeline: the pipeline's own `__call__` for one picture at a time (it encodes the prompt anew each
time), PIL out, a score for each picture, every picture saved as PNG; best-of-N in rounds, and zero-order search that
renders its pivot again every round. fairlead's side is `engine.start` to the written record, its loading of the model
left out as the peer's is. `peer, prompt encoded once` is the same loop with prompt embeddings handed in, to show what
batches alone give. Last, what `bayes_opt` thinks: seconds in its ask and tell against those of rendering, in one run
of 128 pictures. Both spend the same evaluations; the sides take turns, the ratio is of medians and its interval from
bootstrap over turns.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import common
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key
from fairlead.run import engine, models, registry
from fairlead.run.spec import Part, Spec, make_spec

PROMPT = "a photo of a red apple left of a dog"
NEIGHBOURS, TAU = 4, 0.95


class Peer:
    """Pictures one by one through the pipeline of a loaded adapter."""

    def __init__(self, model: Any, reward: Any, steps: int, folder: Path, encode_once: bool, length: int) -> None:
        self.model = model
        self.pipe = model.pipe
        self.reward = reward
        self.steps = steps
        self.folder = folder
        self.length = length
        self.pipe.set_progress_bar_config(disable=True)
        self.made = 0
        self.told: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": ""}
        if encode_once:
            self.told = {}
            for name, text in (("", PROMPT), ("negative_", "")):
                tokens, pooled, _ = self.pipe.encode_prompt(text, max_sequence_length=length)
                self.told |= {f"{name}prompt_embeds": tokens, f"{name}pooled_prompt_embeds": pooled}

    def score(self, z: Tensor) -> float:
        """Noise [C, h, w] -> the reward of its picture, which is saved."""
        packed = packed_latents(z).to(self.model.dtype)
        height, width = self.model.size
        picture = self.pipe(
            **self.told,
            latents=packed,
            num_inference_steps=self.steps,
            true_cfg_scale=self.model.guidance_scale,
            height=height,
            width=width,
            max_sequence_length=self.length,
        ).images[0]
        pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
        picture.save(self.folder / f"{self.made}.png")
        self.made += 1
        return float(self.reward(pixels, [PROMPT])[0])

    def best_of(self, images: int) -> float:
        """Random search."""
        return max(self.score(Key.root(0).fold(i).normal(*self.model.latent)) for i in range(images))

    def zero_order(self, images: int) -> float:
        """Rounds of a pivot, rendered again each time, and its neighbours at the cosine TAU."""
        pivot = Key.root(0).normal(*self.model.latent)
        best = -float("inf")
        for r in range(images // (NEIGHBOURS + 1)):
            around = [pivot]
            for j in range(NEIGHBOURS):
                v = Key.root(0).fold("round", r, j).normal(*self.model.latent)
                v = v - (v * pivot).sum() / (pivot * pivot).sum() * pivot
                around.append(TAU * pivot + (1 - TAU**2) ** 0.5 * pivot.norm() * v / v.norm())
            scores = [self.score(z) for z in around]
            pivot = around[int(np.argmax(scores))]
            best = max(best, *scores)
        return best


def packed_latents(z: Tensor) -> Tensor:
    """[C, h, w] -> [1, h/2 * w/2, 4C]: patches of 2x2, as FLUX's pipeline takes them."""
    c, h, w = z.shape
    return z.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(1, h // 2 * (w // 2), 4 * c)


def ours(spec: Spec) -> None:
    """The run as the command makes it, the model loaded before."""
    with tempfile.TemporaryDirectory() as scratch:
        engine.start(spec, Path(scratch) / "run").close()


def ratio(a: list[float], b: list[float]) -> str:
    """Median of a over median of b, with its interval."""
    found, low, high = common.ratio_of_medians(a, b)
    return f"**{found:.2f}** ({low:.2f} to {high:.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the table and print it."""
    p = common.parser(__doc__, Path(__file__).parent / "peer.md")
    p.add_argument("--model", default="pocket")
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--images", type=int, default=30, help="pictures per search, a multiple of 5")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", type=int, default=16)
    o = common.parse(p, argv)
    if o.quick:
        o.turns, o.images, o.steps = 1, 5, 2
    if o.word == "run":
        o.out.write_text("\n".join(measure(o)) + "\n")
    common.show(o.out)


def measure(o: argparse.Namespace) -> list[str]:
    """The lines of the report."""
    spec = models.with_dtype(
        make_spec(PROMPT, model=o.model, steps=o.steps, batch=o.batch, defaults=models.defaults(o.model))
    )
    model = models.build(spec, device="cpu", dtype=str(spec.model.settings["dtype"]))
    models.build = lambda spec, **where: model
    reward = registry.build("rewards", Part("clip_score", {}))
    rounds = o.images // (NEIGHBOURS + 1)
    searches = {"best_of": "best_of", "zero_order": f"zero_order(neighbours={NEIGHBOURS}, cosine={TAU})"}
    lines = [
        "# The same searches through diffusers, picture by picture",
        "",
        f"{o.model}, {o.steps} steps, {spec.model.settings['dtype']}, {platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {o.turns} turns of {rounds * (NEIGHBOURS + 1)} pictures.",
        "",
        "| search | peer, images/s | peer, prompt encoded once | fairlead | ratio | ratio to encoded once |",
        "|---|---|---|---|---|---|",
    ]
    for name, search in searches.items():
        budget = {"nfe": float(rounds * (NEIGHBOURS + 1) * o.steps)}
        own = models.with_dtype(
            make_spec(
                PROMPT,
                model=o.model,
                steps=o.steps,
                batch=o.batch,
                search=search,
                budget=budget,
                defaults=models.defaults(o.model),
            )
        )
        spent: dict[str, list[float]] = {"peer": [], "once": [], "ours": []}
        for turn in range(o.turns + 1):
            for side, took in spent.items():
                seconds = timed(lambda side=side, own=own, name=name: go(side, own, name, model, reward, o))
                if turn:
                    took.append(seconds)
        n = rounds * (NEIGHBOURS + 1)
        cells = [f"{n / np.median(spent[side]):.2f}" for side in ("peer", "once", "ours")]
        faster = [ratio(spent[side], spent["ours"]) for side in ("peer", "once")]
        lines.append(f"| {name} | {' | '.join(cells)} | {' | '.join(faster)} |")
    return [*lines, "", thinking(o, 12 if o.quick else 128)]


def go(side: str, spec: Spec, name: str, model: Any, reward: Any, o: argparse.Namespace) -> None:
    """One search on one side."""
    if side == "ours":
        ours(spec)
        return
    unlimited = Meter()
    model.meter(unlimited)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), unlimited.grant(INFINITE):
        length = int(models.defaults(o.model).get("settings", {}).get("max_sequence_length", 512))
        peer = Peer(model, reward, o.steps, Path(folder), side == "once", length)
        getattr(peer, name)(o.images)


def thinking(o: argparse.Namespace, images: int) -> str:
    """What bayes_opt spends on itself, against rendering."""
    from fairlead.searches.bayes_opt import BayesOpt

    own = [0.0]
    inner = {name: getattr(BayesOpt, name) for name in ("propose", "learn")}

    def watched(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            since = time.perf_counter()
            out = inner[name](*args)
            own[0] += time.perf_counter() - since
            return out

        return call

    try:
        for name in inner:
            setattr(BayesOpt, name, watched(name))
        spec = models.with_dtype(
            make_spec(
                PROMPT,
                model=o.model,
                steps=o.steps,
                batch=o.batch,
                search="bayes_opt(seeds=4)" if o.quick else "bayes_opt",
                budget={"nfe": float(images * o.steps)},
                defaults=models.defaults(o.model),
            )
        )
        with tempfile.TemporaryDirectory() as scratch:
            store = engine.start(spec, Path(scratch) / "run")
            rendering = store.spent().seconds
            store.close()
    except FairleadError as error:
        return f"bayes_opt was not measured: {error}"
    finally:
        for name, method in inner.items():
            setattr(BayesOpt, name, method)
    return (
        f"bayes_opt chose {images} pictures in {own[0]:.2f} s while rendering took {rendering:.2f} s: "
        f"**{own[0] / rendering:.1%}** (wanted: below 5 %)."
    )


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
