"""Inference-time control of text-to-image diffusion models: search, steering and intervention at a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairlead.api import resume as resume
    from fairlead.api import run as run
    from fairlead.api import score as score
    from fairlead.app.events import Event as Event
    from fairlead.app.result import Result as Result
    from fairlead.app.results import Results as Results
    from fairlead.app.table import Table as Table
    from fairlead.commands import benchmark as benchmark
    from fairlead.commands import calibrate as calibrate
    from fairlead.commands import compare as compare
    from fairlead.commands import keep as keep
    from fairlead.commands import price as price
    from fairlead.commands import replay as replay
    from fairlead.commands import report as report
    from fairlead.core.algebra import minimum as minimum
    from fairlead.core.algebra import rank_mean as rank_mean
    from fairlead.core.algebra import veto as veto
    from fairlead.core.algebra import zscore as zscore
    from fairlead.core.errors import FairleadError as FairleadError
    from fairlead.core.function import Function as Function
    from fairlead.core.reward import Reward as Reward
    from fairlead.pipeline import Pipeline as Pipeline
    from fairlead.rewards.aesthetic import Aesthetic as Aesthetic
    from fairlead.rewards.brightness import Brightness as Brightness
    from fairlead.rewards.clip_score import ClipScore as ClipScore
    from fairlead.rewards.hps import Hps as Hps
    from fairlead.rewards.human import Human as Human
    from fairlead.rewards.image_reward import ImageReward as ImageReward
    from fairlead.rewards.jpeg_size import JpegSize as JpegSize
    from fairlead.rewards.judge import Judge as Judge
    from fairlead.rewards.pairwise_judge import PairwiseJudge as PairwiseJudge
    from fairlead.rewards.pick_score import PickScore as PickScore
    from fairlead.rewards.self_verifier import SelfVerifier as SelfVerifier
    from fairlead.rewards.vqa_score import VqaScore as VqaScore
    from fairlead.streaming import Stream as Stream
    from fairlead.streaming import stream as stream

_WHERE = {
    "benchmark": "fairlead.commands",
    "calibrate": "fairlead.commands",
    "compare": "fairlead.commands",
    "keep": "fairlead.commands",
    "price": "fairlead.commands",
    "replay": "fairlead.commands",
    "report": "fairlead.commands",
    "Event": "fairlead.app.events",
    "Stream": "fairlead.streaming",
    "stream": "fairlead.streaming",
    "run": "fairlead.api",
    "score": "fairlead.api",
    "resume": "fairlead.api",
    "Result": "fairlead.app.result",
    "Results": "fairlead.app.results",
    "Table": "fairlead.app.table",
    "Pipeline": "fairlead.pipeline",
    "FairleadError": "fairlead.core.errors",
    "Function": "fairlead.core.function",
    "Reward": "fairlead.core.reward",
    "Aesthetic": "fairlead.rewards.aesthetic",
    "Brightness": "fairlead.rewards.brightness",
    "ClipScore": "fairlead.rewards.clip_score",
    "JpegSize": "fairlead.rewards.jpeg_size",
    "Hps": "fairlead.rewards.hps",
    "Human": "fairlead.rewards.human",
    "ImageReward": "fairlead.rewards.image_reward",
    "Judge": "fairlead.rewards.judge",
    "PairwiseJudge": "fairlead.rewards.pairwise_judge",
    "PickScore": "fairlead.rewards.pick_score",
    "SelfVerifier": "fairlead.rewards.self_verifier",
    "VqaScore": "fairlead.rewards.vqa_score",
    "minimum": "fairlead.core.algebra",
    "rank_mean": "fairlead.core.algebra",
    "veto": "fairlead.core.algebra",
    "zscore": "fairlead.core.algebra",
}
__all__ = [
    "Aesthetic",
    "Brightness",
    "ClipScore",
    "Event",
    "FairleadError",
    "Function",
    "Hps",
    "Human",
    "ImageReward",
    "JpegSize",
    "Judge",
    "PairwiseJudge",
    "PickScore",
    "Pipeline",
    "Result",
    "Results",
    "Reward",
    "SelfVerifier",
    "Stream",
    "Table",
    "VqaScore",
    "benchmark",
    "calibrate",
    "compare",
    "keep",
    "minimum",
    "price",
    "rank_mean",
    "replay",
    "report",
    "resume",
    "run",
    "score",
    "stream",
    "veto",
    "zscore",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fairlead' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
