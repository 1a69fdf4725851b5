"""Strengths of repulsion measured on a model, the choice, and where it is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.app.cli import main
from fairlead.core.errors import FairleadError
from fairlead.run import models
from fairlead.run.calibrate_repulsion import Strength, chosen, write
from fairlead.run.spec import make_spec


def test_the_choice() -> None:
    found = [Strength(0.0, 1.0, 10.0), Strength(0.1, 1.5, 9.95), Strength(0.2, 2.0, 9.8), Strength(0.3, 1.2, 11.0)]
    assert chosen(found, 0.01).strength == 0.1
    assert chosen(found, 0.02).strength == 0.2
    assert chosen([found[0], Strength(0.1, 3.0, 1.0)], 0.01).strength == 0.0
    assert chosen([Strength(0.0, 1.0, -10.0), Strength(0.1, 2.0, -10.05)], 0.01).strength == 0.1, "a share of its size"


def test_it_is_measured_written_and_used(
    flux_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(flux_folder(), folder)
    size = {"height": 16, "width": 16, "max_sequence_length": 12}
    (folder / "fairlead.json").write_text(json.dumps({"steps": 2, "batch": 4, "settings": size}))
    words = ["a dog", "two cats", "--model", str(folder), "--reward", "brightness", "--group", "3", "--loss", "9"]
    assert main(["calibrate-repulsion", *words, "--strengths", "0.05,0.5", "--json", "--write"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["strength"] for row in told["strengths"]] == [0.0, 0.05, 0.5]
    assert len({row["vendi"] for row in told["strengths"]}) == 3
    defaults = models.defaults(str(folder))
    assert defaults["steps"] == 2
    assert defaults["interventions"]["repulsion"]["strength"] == told["chosen"]
    spec = make_spec("a dog", model=str(folder), reward="brightness", intervene="repulsion", defaults=defaults)
    assert spec.interventions[0].settings == {"strength": told["chosen"]}
    said = make_spec(
        "a dog", model=str(folder), reward="brightness", intervene="repulsion(strength=0.7)", defaults=defaults
    )
    assert said.interventions[0].settings == {"strength": 0.7}


def test_wrong_words() -> None:
    assert main(["calibrate-repulsion", "a dog", "--strengths", "x"]) == 2
    with pytest.raises(FairleadError, match="is not a folder"):
        write("mixture", Strength(0.1, 1.0, 1.0), [])


def test_a_model_without_joint_attention_is_refused_before_it_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "build", lambda *given, **named: pytest.fail("the model was loaded"))
    assert main(["calibrate-repulsion", "a dog", "--model", "pocket-unet", "--reward", "brightness"]) == 2
    assert "repulsion edits joint attention and 'pocket-unet' (StableDiffusion) has none" in capsys.readouterr().err
