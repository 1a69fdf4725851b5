"""Folders of pipelines as models of a run, on the tiny FLUX."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.core.errors import FairleadError
from fairlead.run import engine, models
from fairlead.run.price import price
from fairlead.run.spec import Part, make_spec
from fairlead.testing import resume_laws
from fairlead.testing.runs import answers, small_spec

SETTINGS = {"height": 16, "width": 16, "max_sequence_length": 12, "true_cfg_scale": 2.0}


@pytest.fixture
def folder(flux_folder: Callable[..., Path], tmp_path: Path) -> str:
    """A pipeline folder with defaults of its own."""
    copy = tmp_path / "model"
    shutil.copytree(flux_folder(), copy)
    own = {"steps": 2, "batch": 3, "vocabulary": "words", "settings": SETTINGS}
    (copy / "fairlead.json").write_text(json.dumps(own))
    return str(copy)


def spec_for(folder: str, **words: Any) -> Any:
    given = {"reward": "brightness", "budget": {"nfe": 12.0}, "defaults": models.defaults(folder), **words}
    return make_spec("a photo of a red apple", model=Part(folder, {"dtype": "float32"}), **given)


def test_a_folder_runs_with_its_own_defaults(folder: str, tmp_path: Path) -> None:
    spec = spec_for(folder)
    assert (spec.steps, spec.batch) == (2, 3)
    assert price(spec).cost_per_candidate.forwards == 4, "two rows an evaluation under guidance"
    store = engine.start(spec, tmp_path / "run")
    assert len(store.candidates()) == 6
    assert store.spent().forwards == 24
    assert len({a[2] for a in answers(store)}) > 5
    for index in (0, 4):
        assert engine.replay(tmp_path / "run", index).identical


def test_forwards_are_a_budget_too(folder: str, tmp_path: Path) -> None:
    store = engine.start(spec_for(folder, budget={"forwards": 15}), tmp_path / "run")
    assert len(store.candidates()) == 3
    assert store.spent().forwards == 12


def test_a_grouped_intervention_resumes(folder: str, tmp_path: Path) -> None:
    words = {"intervene": "token_mean_damping(strength=0.5)", "group": 2, "batch": 2, "sampler": "ancestral"}
    spec = spec_for(folder, budget={"nfe": 10.0}, **words)
    resume_laws(spec, tmp_path)
    plain = engine.start(spec_for(folder, sampler="ancestral", batch=2), tmp_path / "plain")
    controlled = engine.resume(tmp_path / "whole")
    base = controlled.baseline()
    assert base is not None
    assert base.reward == pytest.approx(plain.get(0).reward, abs=2e-3)
    assert controlled.get(0).reward != plain.get(0).reward


def test_words_the_model_does_not_know_are_named(folder: str) -> None:
    spec = make_spec("a photo of a purple dog, on fire", model=folder, reward="brightness")
    [sentence] = models.warnings(spec)
    assert "'purple'" in sentence
    assert "'fire'" in sentence
    assert "'dog'" not in sentence
    assert "tokenizer/tokenizer.json" in sentence
    [sentence] = models.warnings(make_spec("a mauve dog", model="pocket-unet", reward="brightness"))
    assert sentence.endswith("Its words are listed by 'fairlead list models pocket-unet'.")
    assert models.warnings(spec_for(folder)) == []


def test_what_a_list_shows(folder: str) -> None:
    found = models.describe(folder)
    assert (found["family"], found["steps"], found["size"]) == ("Flux", 2, "16x16")
    assert found["megabytes"] > 0


def test_a_pipeline_without_adapter_is_named(folder: str) -> None:
    index = Path(folder) / "model_index.json"
    index.write_text(json.dumps({"_class_name": "NewPipeline"}))
    with pytest.raises(
        FairleadError, match=r"is a NewPipeline, which cannot be used: no adapter .* Supported families: .*Flux"
    ):
        models.build(spec_for(folder), device="cpu", dtype="float32")


def test_a_wrong_setting_is_named(folder: str, tmp_path: Path) -> None:
    spec = spec_for(folder, settings={folder: {"true_cfg": 2}})
    with pytest.raises(FairleadError, match="Did you mean 'true_cfg_scale'"):
        engine.start(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"steer": "feynman_kac"}, "feynman_kac acts between"),
        ({"steer": "particle_guidance"}, "particle_guidance acts between"),
        ({"steer": "paths"}, ""),
        ({"steer": "feynman_kac", "group": 4}, ""),
        ({"steer": "demon"}, "4 of at least 15 steps"),
        ({"steer": "demon", "steps": 15}, ""),
        ({"steer": "demon(solver='sampler')"}, ""),
        ({"steer": "demon", "model": "pocket-turbo", "steps": 4}, "distilled for others"),
    ],
)
def test_what_steering_cannot_do_here_is_said(words: dict[str, Any], said: str) -> None:
    spec = small_spec(**words)
    found = [w for w in models.warnings(spec) if "steer" in str(words) and ("acts between" in w or "noise levels" in w)]
    assert [said in w for w in found] == ([True] if said else [])


def test_runs_share_a_model_only_where_they_are_told_to() -> None:
    def built(**settings: Any) -> Any:
        spec = make_spec("a", model=Part("mixture", settings), reward="brightness")
        return models.build(spec, device="cpu", dtype="float32")

    with models.shared():
        one, other = built(), built(seed=1)
        assert built() is one
        assert built(seed=1) is other is not one
        with models.shared():
            assert built() is one
            inner = built(seed=2)
        assert built(seed=2) is not inner, "what was loaded inside ends with it"
        assert built() is one
    assert built() is not one
