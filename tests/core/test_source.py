"""Files that a run depends on, and whom they are trusted by; which sampler stands for a scheduler."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import pytest

from fairlead.core import trust
from fairlead.core.errors import FairleadError
from fairlead.core.source import digest, split
from fairlead.core.twins import SCHEDULERS, no_twin, sampler_of


def test_a_function_in_a_file() -> None:
    assert split("a/b.py:score") == (Path("a/b.py"), "score")
    assert split("c:/b.py:score") == (Path("c:/b.py"), "score")
    assert split("~/b.py:score")[0] == Path.home() / "b.py"
    for source in ("b.py", "b.txt:score", "b.py:", "b.py:two words", ":score"):
        with pytest.raises(FairleadError, match="does not name a function in a file"):
            split(source)


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "b.py"
    path.write_text("x = 1\n")
    assert digest(f"{path}:score") == blake2b(b"x = 1\n", digest_size=8).hexdigest()
    with pytest.raises(FairleadError, match="cannot be read"):
        digest(f"{tmp_path / 'c.py'}:score")


def test_a_stored_run_executes_what_its_user_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_executed", set())
    path = tmp_path / "b.py"
    with trust.stored_run(tmp_path, trusted=False):
        assert trust.is_stored()
        with pytest.raises(FairleadError, match="add --trust"):
            trust.allow_file(path, "one")
    assert not trust.is_stored()
    with trust.stored_run(tmp_path, trusted=True):
        assert not trust.is_stored()
        trust.allow_file(path, "one")
    with trust.stored_run(tmp_path, trusted=False):
        trust.allow_file(path, "one")
        with pytest.raises(FairleadError, match="add --trust"):
            trust.allow_file(path, "two")


def test_schedulers_with_a_twin() -> None:
    twins = {
        "DDIMScheduler": "euler",
        "EulerDiscreteScheduler": "euler",
        "FlowMatchEulerDiscreteScheduler": "euler",
        "EulerAncestralDiscreteScheduler": "ancestral",
        "DDPMScheduler": "ancestral",
        "DPMSolverMultistepScheduler": "dpmpp_2m",
        "LCMScheduler": "consistency",
        "FlowMatchHeunDiscreteScheduler": "heun",
        "SCMScheduler": "consistency",
    }
    assert {name: sampler for name, (sampler, twin) in SCHEDULERS.items() if twin} == twins
    for name in SCHEDULERS:
        assert (no_twin(name, {}) == "") == (name in twins)
    assert sampler_of("HeunDiscreteScheduler", {}) == "scheduler"
    assert sampler_of("Unknown", {}) == "euler"
    assert no_twin("Unknown", {}) == "Unknown has no twin"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("algorithm_type", "sde-dpmsolver++"),
        ("solver_order", 3),
        ("solver_type", "heun"),
        ("clip_sample", True),
        ("thresholding", True),
    ],
)
def test_an_unusual_setting_has_no_twin(setting: str, value: object) -> None:
    usual = {"algorithm_type": "dpmsolver++", "solver_order": 2, "clip_sample": False, "steps_offset": 1}
    assert no_twin("DPMSolverMultistepScheduler", usual) == ""
    said = no_twin("DPMSolverMultistepScheduler", {**usual, setting: value})
    assert said == f"DPMSolverMultistepScheduler with {setting}={value!r} has no twin"
