"""A page that searches for better pictures of a prompt: fairlead inside Gradio, with the embedded model, on a CPU."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pandas

import fairlead
from fairlead.core.errors import FairleadError

CANDIDATES = {"low": 4, "medium": 16, "high": 64}
STEPS = 8
REWARDS = ("clip_score", "aesthetic", "clip_score + 0.5*aesthetic")
LONGEST = 300
"""Characters of a prompt."""


def search(prompt: str, quality: str, reward: str) -> Iterator[tuple[list[Any], pandas.DataFrame, str]]:
    """Pictures, the curve of the best reward and a sentence, after every batch and at the end."""
    if not prompt.strip() or len(prompt) > LONGEST:
        raise gr.Error(f"Write what the picture should show, in at most {LONGEST} characters.")
    if quality not in CANDIDATES or reward not in REWARDS:
        raise gr.Error("Choose a quality and a reward of the lists.")
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        words = (prompt, CANDIDATES[quality] * STEPS, reward, folder, told)
        threading.Thread(target=work, args=words, daemon=True).start()
        rows: list[tuple[int, float]] = []
        while True:
            event = told.get()
            if isinstance(event, Exception):
                raise gr.Error(str(event))
            if isinstance(event, list):
                yield (
                    event,
                    curve(rows),
                    f"The best of {rows[-1][0]} candidates, and others that are good and different.",
                )
                return
            if event.best is not None and (not rows or event.done > rows[-1][0]):
                rows.append((event.done, event.best))
                yield [], curve(rows), f"{event.done} candidates, the best reward is {event.best:.4g}."


def work(prompt: str, nfe: int, reward: str, folder: str, told: queue.SimpleQueue[Any]) -> None:
    """Search in a thread of its own; what is told is progress, then the pictures with their captions, or an error."""
    try:
        result = fairlead.run(
            prompt,
            model="pocket",
            reward=reward,
            steps=STEPS,
            budget={"nfe": nfe},
            seed=0,
            out=f"{folder}/run",
            on_progress=told.put,
        )
        shots = [(result.baseline, "plain"), *((shot, f"candidate {shot.index}") for shot in result.keep(4))]
        told.put([(shot.image, f"{name}: {shot.reward:.4g}") for shot, name in shots])
    except FairleadError as error:
        told.put(error)
    except Exception as error:
        told.put(RuntimeError(f"The search failed ({type(error).__name__}). Try again."))
        raise


def curve(rows: list[tuple[int, float]]) -> pandas.DataFrame:
    """The best reward by the number of candidates."""
    return pandas.DataFrame(rows, columns=["candidates", "best reward"])


def page() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="fairlead") as blocks:
        gr.Markdown("# Search for a better picture\nThe model stays as it is; the search only chooses.")
        prompt = gr.Textbox(label="Prompt", value="a photo of a red circle", max_length=LONGEST)
        with gr.Row():
            quality = gr.Radio(list(CANDIDATES), value="medium", label="Quality")
            reward = gr.Dropdown(list(REWARDS), value=REWARDS[0], label="Reward")
        button = gr.Button("Search", variant="primary")
        words = gr.Markdown()
        gallery = gr.Gallery(label="Pictures", format="png", columns=5)
        plot = gr.LinePlot(x="candidates", y="best reward", label="Best so far")
        button.click(search, [prompt, quality, reward], [gallery, plot, words], concurrency_limit=1)
    return blocks


if __name__ == "__main__":
    page().queue(max_size=16).launch()
