"""An option is written once: the command line, plan files and Python read the same fields."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.bench import plan
from fairlead.core.errors import FairleadError
from fairlead.run.options import METHOD_OPTIONS, MODEL_OPTIONS, RunOptions, described
from fairlead.run.spec import make_spec

SMALL = {"model": "mixture", "reward": "brightness"}


def flag(name: str) -> str:
    return described()[name].flag or f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("command", ["run", "price", "bench"])
def test_every_option_is_a_flag_with_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, option in described().items():
        if name == "prompt" or (command == "bench" and name == "watch"):
            continue
        assert f"{flag(name)} " in shown
        assert " ".join(option.sentence.split()) in shown


@pytest.mark.parametrize("function", [fairlead.run, make_spec], ids=["run", "make_spec"])
def test_every_option_is_an_argument_in_python(function: object) -> None:
    from fairlead import api

    called = api.run if function is fairlead.run else make_spec
    parameters = inspect.signature(called).parameters
    assert next(iter(parameters)) == "prompt"
    for name, option in described().items():
        assert name in parameters
        assert f"{name}: {option.sentence}" in (called.__doc__ or "")


def test_a_model_option_is_a_setting_of_the_model() -> None:
    spec = make_spec("a dog", **SMALL, guidance_scale=4, negative_prompt="a cat", height=64, vae_tiling=True)
    same = {"guidance_scale": 4, "negative_prompt": "a cat", "height": 64, "vae_tiling": True}
    assert spec.model.settings == same
    assert spec == make_spec("a dog", **SMALL, settings={"model": same})
    assert make_spec("a dog", **SMALL, height=64, settings={"model": {"height": 32}}).model.settings == {"height": 32}


def test_the_command_line_says_the_same_as_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fairlead.run import engine

    seen = []

    def start(spec: object, *args: object, **kwargs: object) -> None:
        seen.append(spec)
        raise FairleadError("seen")

    monkeypatch.setattr(engine, "start", start)
    words = [
        "--model",
        "pocket",
        "--guidance-scale",
        "4",
        "--negative-prompt",
        "a cat",
        "--height",
        "64",
        "--steps",
        "8",
    ]
    assert main(["run", "a dog", *words, "--set", "best_of.n=3", "--watch", "brightness", "--out", str(tmp_path / "a")])
    with pytest.raises(FairleadError, match="seen"):
        fairlead.run(
            "a dog",
            guidance_scale=4,
            negative_prompt="a cat",
            height=64,
            steps=8,
            settings={"best_of": {"n": 3}},
            watch="brightness",
        )
    assert seen[0] == seen[1]


def test_a_misspelt_argument_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"no argument 'guidance_scal'\. Did you mean 'guidance_scale'"):
        make_spec("a dog", guidance_scal=4)  # type: ignore[call-arg]


def test_a_plan_takes_every_option_of_a_method() -> None:
    assert (
        set(MODEL_OPTIONS)
        < set(METHOD_OPTIONS)
        == set(described()) - {"prompt", "reward", "watch", "budget", "seed", "like", "unlike"}
    )
    made = plan.make(
        {"reward": "brightness", "model": "mixture", "prompts": ["a dog"], "methods": {"a": {"guidance_scale": 3.0}}},
        "p",
    )
    assert made.spec("a", "a dog", 0).model.settings == {"guidance_scale": 3.0}


def test_a_model_part_keeps_its_settings() -> None:
    assert RunOptions("a dog").model_settings == {}
