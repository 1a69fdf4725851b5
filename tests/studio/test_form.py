"""The form of a new run: fields from the registry, refusals beside them, and what needs a yes."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.app import catalogue
from fairlead.app.setting_words import settings_of
from fairlead.app.studio.answers import Refused
from fairlead.app.studio.refusals import field_of, need_yes
from fairlead.app.workers import form
from fairlead.app.workers.jobs import Jobs
from fairlead.app.workers.vouching import check_vouched, forget, formulas_of, named_by, vouch
from fairlead.core.errors import FairleadError
from fairlead.run import models
from fairlead.run.options import RunOptions

FAST = {"prompt": "a photo of a dog", "model": "mixture", "reward": "brightness", "steps": 4, "budget": "nfe=80"}


def options(**change: Any) -> RunOptions:
    return form.read_options({**FAST, **change})


@pytest.mark.parametrize("kind", ["searches", "spaces", "steerings", "interventions"])
def test_every_setting_is_a_field_with_its_range_and_sentence(kind: str) -> None:
    """What the docstring says is what the code does: defaults agree, and a choice offers the default."""
    for item in catalogue.items(kind):
        described = settings_of(item.about)
        assert set(described) == {name for name, _ in item.settings}, item.name
        for name, default in item.settings:
            words = described[name]
            assert words.default == default
            assert words.sentence
            assert words.range
            assert (words.type == "choice") == bool(words.choices), (item.name, name)
            if words.type == "choice" and default != "None":
                assert str(default).strip("'") in words.choices
            if words.type in ("number", "int") and default != "None":
                low, high = words.least, words.most
                assert low is None or low <= float(str(default))
                assert high is None or float(str(default)) <= high


@pytest.mark.parametrize(
    ("item", "name", "type", "bounds", "choices"),
    [
        ("sep_cma", "step", "choice", (None, None), ("auto", "tpa", "csa")),
        ("sep_cma", "active", "switch", (None, None), ()),
        ("evolution", "mutation", "number", (0, 1), ()),
        ("evolution", "elites", "int", (1, None), ()),
        ("best_of", "n", "int", (1, None), ()),
        ("demon", "tau", "text", (None, None), ()),
        ("lidar", "bank", "choice", (None, None), ("also", "drafts")),
        ("lidar", "standardise", "choice", (None, None), ("true", "false")),
    ],
)
def test_types_of_fields(item: str, name: str, type: str, bounds: tuple[Any, Any], choices: tuple[str, ...]) -> None:
    every = {one.name: one for kind in ("searches", "steerings") for one in catalogue.items(kind)}
    words = settings_of(every[item].about)[name]
    assert (words.type, (words.least, words.most), words.choices) == (type, bounds, choices)


REFUSED = [
    ({"search": "best_off"}, "search"),
    ({"model": "pocket-trubo"}, "model"),
    ({"reward": "clip_scor"}, "reward"),
    ({"budget": "nfe=lots"}, "budget"),
    ({"prompt": ""}, "prompt"),
    ({"steer": ["lidra"]}, "steer"),
    ({"sampler": "eular"}, "sampler"),
    ({"until": "clip >="}, "until"),
    ({"finals": 3}, "finals"),
]


@pytest.mark.parametrize(("change", "field"), REFUSED)
def test_a_refusal_stands_beside_its_field(change: dict[str, Any], field: str) -> None:
    """The sentence is that of the command, because it is the same check."""
    chosen = options(**change)
    with pytest.raises(FairleadError) as refused:
        models.spec_of(chosen)
    assert field_of(str(refused.value), chosen, models.spec_of) == field


def test_a_sentence_of_the_worker_is_placed_by_its_words() -> None:
    """What is refused only with the model at hand, which the server has not."""
    chosen = options(search="sep_cma", settings=["sep_cma.sigma=-1", "sep_cma.step=tpa"], steer=["lidar"])
    for sentence, field in (
        ("sep_cma.sigma is -1: must be a number > 0.", "sep_cma.sigma"),
        ("Steering 'lidar' needs a sampler without noise.", "steer"),
        ("The budget covers no picture: the first one takes nfe=4.", "budget"),
        ("Nothing that is in the form.", ""),
    ):
        assert field_of(sentence, chosen, models.spec_of) == field


def test_the_command_makes_the_same_run() -> None:
    """The command and the job that are made of a form are read back as the same run."""
    from typer.testing import CliRunner

    from fairlead.app.cli import app

    chosen = options(search="sep_cma", settings=["sep_cma.population=6"], watch=["jpeg_size"], exact=False, seed=3)
    assert models.spec_of(form.read_options(form.job_options(chosen))) == models.spec_of(chosen)
    words = shlex.split(form.command_line(chosen))
    assert words[:2] == ["fairlead", "run"]
    assert CliRunner().invoke(app, [*words[1:], "--dry-run"], standalone_mode=False).return_value == 0


def test_defaults_of_the_file_are_those_of_the_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRLEAD_CONFIG", str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("model = 'mixture'\nreward = 'brightness'\n")
    usual = {"model": "mixture", "reward": "brightness"}
    shown = {option["name"]: option["default"] for option in form.form(usual)["options"]}
    assert (shown["model"], shown["reward"], shown["search"]) == ("mixture", "brightness", "best_of")
    chosen = form.read_options({"prompt": "a dog", "model": "pocket"}, usual)
    assert (chosen.model, chosen.reward) == ("pocket", "brightness")
    job = form.job_options(chosen)
    assert job == {"prompt": "a dog", "model": "pocket", "reward": "brightness"}
    assert "--model pocket" in form.command_line(chosen), "the file would choose another one"


@pytest.mark.parametrize(
    "change",
    [
        {"reward": "my.py:flatness"},
        {"reward": "clip_score + 0.5*http(url='http://127.0.0.1:1/x')"},
        {"watch": ["judge(model='m')"]},
        {"final_judge": "pairwise_judge(model='m', base_url='http://127.0.0.1:1')"},
        {"reward": "zscore(clip_score, stats='table.json')"},
    ],
)
def test_what_reaches_out_needs_a_yes(change: dict[str, Any]) -> None:
    """Only to exactly this formula: a yes is not carried to another one."""
    formulas = formulas_of(options(**change))
    for agreed in (None, [], ["clip_score"], True, "my.py:flatness", [{}]):
        with pytest.raises(Refused) as refused:
            need_yes(formulas, agreed)
        assert refused.value.more["formula"] in formulas
        assert refused.value.more["field"] == next(iter(change))
    need_yes(formulas, list(formulas))


def test_what_only_looks_needs_none() -> None:
    need_yes(formulas_of(options(reward="clip_score + 0.5*aesthetic", watch=["jpeg_size"])), None)


@pytest.mark.parametrize("words", [{"reward": "my.py:flatness"}, {"image": "/home/me/passport.png"}])
def test_a_job_that_came_with_a_folder_executes_and_copies_nothing(
    words: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark outside the folder stands for exactly this job in this folder; jobs that only look need none."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    named = named_by(options(**words))
    home = tmp_path / "runs"
    asked = Jobs(home).add(words, ready=lambda job: vouch(home, job))
    check_vouched(home, Jobs(home).all()[0], named)
    Path(shutil.copytree(home, tmp_path / "copied"))
    brought = Jobs(home).add(words)
    for root, job in ((home, brought), (tmp_path / "copied", asked), (home, replace(asked, options={"reward": "x"}))):
        with pytest.raises(FairleadError, match="nobody asked for it on this machine"):
            check_vouched(root, job, named)
    check_vouched(home, brought, named_by(options(reward="clip_score")))
    forget(home, asked)
    with pytest.raises(FairleadError, match="nobody asked"):
        check_vouched(home, asked, named)


def test_the_page_executes_nothing_before_a_yes(studio: Any, tmp_path: Path) -> None:
    """Neither for a price, nor for a run, nor for the continuation of a recorded one."""
    proof = tmp_path / "executed"
    file = tmp_path / "my.py"
    body = f"open({str(proof)!r}, 'a').write('x')\ndef flatness(images, prompts):\n    return [0.5 for _ in images]\n"
    file.write_text(body)
    formula = f"{file}:flatness"
    words = {**FAST, "reward": formula}
    found = studio.ask("/api/price", {"options": words}).json
    assert (found["field"], found["formula"]) == ("reward", formula)
    answer = studio.ask("/api/jobs", {"options": words})
    assert (answer.status, answer.json["error"]["code"]) == (422, "needs_yes")
    assert not proof.exists()
    id = studio.ask("/api/jobs", {"options": words, "agreed": [formula]}).json["run"]
    studio.wait(id)
    assert proof.exists()
    again = studio.ask(f"/api/runs/{id}/resume", {"budget": "nfe=160"})
    assert (again.status, again.json["error"]["code"]) == (422, "needs_yes")
    assert studio.run(id)["state"]["word"] == "finished"
    agreed = [again.json["error"]["formula"]]
    assert studio.ask(f"/api/runs/{id}/resume", {"budget": "nfe=160", "agreed": agreed}).status == 200
    studio.wait(id)
