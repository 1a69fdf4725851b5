"""The nodes *Fairlead Search*, *Fairlead Score* and *Fairlead Keep*, in the V3 schema of ComfyUI."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io

from . import convert
from .client import DEFAULT, Client

CATEGORY = "fairlead"
QUALITIES = ("low", "medium", "high", "xhigh", "max")
BATCH = 16
"""Pictures of one request to score."""
MOST = 64
"""Pictures to choose from."""
POLL = 0.1
"""Seconds between two looks at the interrupt button."""
PREVIEW = 512


def server() -> Any:
    """The input that every node has."""
    return io.String.Input("server", default=DEFAULT, tooltip="Where 'fairlead serve' listens.")


class Search(io.ComfyNode):
    """Search for better pictures of a prompt at a budget."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="Fairlead_Search",
            display_name="Fairlead Search",
            category=CATEGORY,
            description="Draws many candidates for a prompt and returns the best by a reward.",
            inputs=[
                io.String.Input("prompt", multiline=True),
                io.String.Input("budget", default="medium", tooltip="low, medium, high, xhigh, max, or nfe=640."),
                io.String.Input("reward", default="clip_score", tooltip="A reward or a formula of rewards."),
                io.Int.Input("n", default=4, min=1, max=10, tooltip="Pictures in candidates, good and different."),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=True),
                io.String.Input("model", default="", optional=True, tooltip="A served model; empty: the first."),
                io.String.Input(
                    "advanced", default="", optional=True, multiline=True, tooltip="More settings as JSON."
                ),
                server(),
            ],
            outputs=[
                io.Image.Output("winner"),
                io.Image.Output("candidates"),
                io.Float.Output("rewards", is_output_list=True),
                io.String.Output("run"),
                io.String.Output("report", tooltip="The address of the run at the server."),
            ],
        )

    @classmethod
    async def execute(
        cls,
        prompt: str,
        budget: str,
        reward: str,
        n: int,
        seed: int,
        server: str,
        model: str = "",
        advanced: str = "",
    ) -> io.NodeOutput:
        """Ask the server, and show the best so far meanwhile."""
        if not 1 <= n <= 10:
            raise ValueError(f"n is {n}: must be in [1, 10].")
        own = {**settings(advanced), "reward": reward, "seed": seed, "events": True}
        body: dict[str, Any] = {"prompt": prompt, "n": n, "stream": True, "partial_images": 3, "fairlead": own}
        if budget.strip() in QUALITIES:
            body["quality"] = budget.strip()
        else:
            own["budget"] = budget.strip()
        if model.strip():
            body["model"] = model.strip()
        client = Client(server)
        show = shown_progress()
        made: list[dict[str, Any]] = []

        def take(event: dict[str, Any]) -> None:
            if event["type"] == "image_generation.completed":
                made.append(event)
            else:
                show(event)

        await streamed(client, "/v1/images/generations", body, take)
        if not made:
            raise RuntimeError(f"{client.address} ended without a picture. Queue the prompt again: the run continues.")
        images = convert.to_tensor([event["b64_json"] for event in made])
        rewards = [number(event["fairlead"]["reward"]) for event in made]
        run = made[0]["fairlead"]["run"]
        return io.NodeOutput(images[:1], images, rewards, run, f"{client.address}/v1/runs/{run}")


class Score(io.ComfyNode):
    """Numbers for pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="Fairlead_Score",
            display_name="Fairlead Score",
            category=CATEGORY,
            description="Scores pictures by a reward, and sorts them.",
            inputs=[
                io.Image.Input("images"),
                io.String.Input("prompt", multiline=True),
                io.String.Input("reward", default="clip_score", tooltip="A reward or a formula of rewards."),
                server(),
            ],
            outputs=[
                io.Float.Output("scores", is_output_list=True),
                io.Image.Output("best"),
                io.Image.Output("sorted"),
                io.String.Output("table"),
            ],
        )

    @classmethod
    async def execute(cls, images: torch.Tensor, prompt: str, reward: str, server: str) -> io.NodeOutput:
        """Score in batches, and sort with the best first."""
        scores = await scored(Client(server), convert.to_base64(images), prompt, reward)
        order = sorted(range(len(scores)), key=lambda i: -rank_value(scores[i]))
        lines = [f"{place}. picture {i}: {scores[i]:.6g}" for place, i in enumerate(order, 1)]
        if len(scores) > BATCH:
            lines.append(f"A reward that ranks compares {BATCH} pictures at a time.")
        return io.NodeOutput(scores, images[order[:1]], images[order], "\n".join(lines))


class Keep(io.ComfyNode):
    """Pictures that are good and different."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="Fairlead_Keep",
            display_name="Fairlead Keep",
            category=CATEGORY,
            description="Keeps pictures that are good and different from each other.",
            inputs=[
                io.Image.Input("images"),
                io.Int.Input("n", default=4, min=1, max=MOST),
                io.String.Input("reward", default="", optional=True, tooltip="What is good; empty: only different."),
                io.String.Input("prompt", default="", optional=True, multiline=True),
                io.Float.Input("weight", default=0.5, min=0.0, max=1000.0, step=0.05, tooltip="0: most different."),
                io.Combo.Input("likeness", options=["clip", "pixels"], default="clip"),
                server(),
            ],
            outputs=[io.Image.Output("images"), io.Int.Output("indices", is_output_list=True)],
        )

    @classmethod
    async def execute(
        cls,
        images: torch.Tensor,
        n: int,
        weight: float,
        likeness: str,
        server: str,
        reward: str = "",
        prompt: str = "",
    ) -> io.NodeOutput:
        """Score the pictures if a reward is named, then choose."""
        if not 1 <= n <= len(images) <= MOST:
            message = (
                f"n is {n} of {len(images)} pictures: must be in [1, {min(len(images), MOST)}], of at most {MOST}."
            )
            raise ValueError(message)
        client = Client(server)
        sent = convert.to_base64(images)
        body: dict[str, Any] = {"images": sent, "n": n, "weight": weight, "likeness": likeness}
        if reward.strip():
            numbers = await scored(client, sent, prompt, reward)
            body["scores"] = [None if one != one else one for one in numbers]
        found = await posted(client, "/v1/keep", body)
        chosen = found["indices"]
        return io.NodeOutput(images[chosen], chosen)


def settings(text: str) -> dict[str, Any]:
    """The JSON of the input *advanced*."""
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ValueError(f'advanced is not JSON ({error}). Write it like {{"search": "zero_order"}}.') from None
    if not isinstance(found, dict):
        raise ValueError(f'advanced is {text!r:.60}: must be like {{"search": "zero_order"}}.')
    return found


def number(value: float | None) -> float:
    """A score; NaN where there is none."""
    return float("nan") if value is None else float(value)


def rank_value(score: float) -> float:
    """A score to sort by: what has none comes last."""
    return score if score == score else float("-inf")


async def scored(client: Client, images: list[str], prompt: str, reward: str) -> list[float]:
    """A number for each picture."""
    found: list[float] = []
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH]
        body = {"images": some, "prompts": prompt, "reward": reward}
        answer = await posted(client, "/v1/score", body)
        found += [number(one) for one in answer["scores"]]
    return found


async def posted(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a body, unless the user interrupts."""
    found: dict[str, Any] = await interruptible(client, lambda: client.post(path, body), lambda: None)
    return found


async def streamed(client: Client, path: str, body: dict[str, Any], take: Callable[[dict[str, Any]], None]) -> None:
    """Every event of an answer, taken in the node's own thread, unless the user interrupts."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for event in client.events(path, body):
            waiting.put(event)

    def take_all() -> None:
        while not waiting.empty():
            take(waiting.get())

    await interruptible(client, read, take_all)


async def interruptible(client: Client, work: Callable[[], Any], meanwhile: Callable[[], None]) -> Any:
    """The result of blocking work. The interrupt button of ComfyUI closes the connection, so the server stops."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    task = asyncio.ensure_future(asyncio.to_thread(work))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to read it
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL)
            throw_exception_if_processing_interrupted()
            meanwhile()
    except BaseException:
        client.close()
        raise
    meanwhile()
    return task.result()


def shown_progress() -> Callable[[dict[str, Any]], None]:
    """Shows the share of the budget, and the best so far as a preview."""
    from comfy.utils import ProgressBar

    bar = ProgressBar(100)
    share = 0

    def show(event: dict[str, Any]) -> None:
        nonlocal share
        share = max(share, round(100 * event.get("share", 0)))
        text = event.get("b64_json")
        bar.update_absolute(share, 100, None if text is None else ("PNG", convert.opened(text), PREVIEW))

    return show


class FairleadExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node."""
        return [Search, Score, Keep]


async def comfy_entrypoint() -> ComfyExtension:
    """ComfyUI calls this to load the nodes."""
    return FairleadExtension()
