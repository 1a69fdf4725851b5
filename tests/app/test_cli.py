"""Every command, its JSON, its exit code, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fairlead.app
from fairlead.app import catalogue
from fairlead.app.cli import main
from fairlead.core.cost import Cost
from fairlead.core.errors import RewardError, StoreError
from fairlead.run.rung_plan import RungPlan

RUN = ("run", "a photo of a dog", "--model", "mixture", "--reward", "brightness")


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr, which must be one line, with nothing on stdout."""
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    return said.err


def test_a_run_and_its_summary(fake_engine: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*RUN, "--budget", "nfe=640,seconds=60", "--seed", "7", "--set", "best_of.n=9", "--out", "r"]) == 0
    ((_, spec),) = fake_engine.calls
    assert (spec.seed, spec.budget, spec.search.settings) == (7, {"nfe": 640.0, "seconds": 60.0}, {"n": 9})
    said = capsys.readouterr()
    for word in ("0.5000 → 0.8000", "+0.3000", "candidate 2 of 4", "80 of 640 nfe", "r/best.png", "r/report.html"):
        assert word in said.out
    assert (tmp_path / "r" / "report.html").is_file()


def test_json_is_the_last_and_only_thing_on_stdout(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json", "--out", "r"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert list(found) == ["run", "baseline", "best", "cost", "stopped"]
    assert found["run"] == "r"
    assert found["baseline"] == {"reward": 0.5, "terms": {"brightness": 0.5}, "image": "r/baseline.png"}
    assert found["best"] == {"candidate": 2, "reward": 0.8, "terms": {"brightness": 0.8}, "image": "r/best.png"}
    assert list(found["cost"]) == ["nfe", "forwards", "decodes", "scores", "seconds"]
    assert found["cost"]["nfe"] == 80
    assert isinstance(found["cost"]["nfe"], int)
    assert found["stopped"] == "budget: nfe"
    assert Path(found["best"]["image"]).is_file()
    assert "a library talks" in said.err


def test_json_has_no_nan(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake_engine.rewards = (math.nan, math.nan)
    main([*RUN, "--json", "--out", "r"])
    out = capsys.readouterr().out
    assert "NaN" not in out
    assert json.loads(out)["best"] is None
    assert json.loads(out)["baseline"]["reward"] is None


def test_the_default_folder_is_named_by_time_and_prompt(fake_engine: Any, tmp_path: Path) -> None:
    assert main([*RUN]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-a-photo-of-a-dog")
    assert main([*RUN]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_ctrl_c_stops_and_says_how_to_go_on(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake_engine.while_running = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert main([*RUN, "--json", "--out", "r"]) == 130
    said = capsys.readouterr()
    assert "fairlead resume r" in said.err
    assert json.loads(said.out)["stopped"] == "interrupted"


def test_an_abort_is_130(fake_engine: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fake_engine.error = KeyboardInterrupt()
    assert main([*RUN, "--out", "r"]) == 130
    assert "aborted" in sentence(capsys)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "", "-m", "mixture"), "prompt"),
        (("run", "x" * 3000, "-m", "mixture"), "3000 characters"),
        ((*RUN, "--reward", "brightnes"), "Did you mean 'brightness'"),
        ((*RUN, "--reward", "brightness +"), "not a formula"),
        ((*RUN, "--reward", "mine.py:score"), "mine.py cannot be read"),
        ((*RUN, "--model", "mixtur"), "Did you mean 'mixture'"),
        ((*RUN, "--search", "best_off"), "Did you mean 'best_of'"),
        ((*RUN, "--space", "noises"), "Did you mean 'noise'"),
        ((*RUN, "--steer", "nothing"), "nothing"),
        ((*RUN, "--intervene", "token_mean_dampin"), "Did you mean 'token_mean_damping'"),
        ((*RUN, "--sampler", "eule"), "Did you mean 'euler'"),
        ((*RUN, "--set", "best_of=3"), "part.setting=value"),
        ((*RUN, "--set", "best_off.n=3"), "Did you mean 'best_of'"),
        ((*RUN, "--budget", "nfe=0"), "must be > 0"),
        ((*RUN, "--budget", "nfe=-1"), "must be > 0"),
        ((*RUN, "--budget", "nfe=nan"), ""),
        ((*RUN, "--budget", "nfe"), "name=number"),
        ((*RUN, "--budget", "nfes=10"), "Did you mean 'nfe'"),
        ((*RUN, "--steps", "0"), "steps is 0"),
        ((*RUN, "--steps", "many"), "steps"),
        ((*RUN, "--group", "0"), "group is 0"),
        ((*RUN, "--batch", "-4"), "batch is -4"),
        ((*RUN, "--sed", "4"), "--sed"),
        (("run",), "PROMPT"),
        (("rum", "x"), "rum"),
        (("list", "modls"), "Did you mean 'models'"),
        (("list", "steerings", "demn"), "Did you mean 'demon'"),
        (("report",), "RUN"),
        (("report", "nowhere"), "has no run.sqlite"),
        (("resume", "nowhere"), "has no run.sqlite"),
        (("resume", "nowhere", "--budget", "x"), "name=number"),
        (("replay", "nowhere", "1"), "has no run.sqlite"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    fake_engine: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    assert main(list(words)) in (2, 3)
    assert told in sentence(capsys)
    assert fake_engine.calls == []
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(fake_engine: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    assert main([*RUN, "--out", "mine"]) == 2
    assert "exists already" in sentence(capsys)
    (tmp_path / "file").write_text("x")
    assert main([*RUN, "--out", "file"]) == 2
    assert fake_engine.calls == []
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes"]


@pytest.mark.parametrize(
    ("error", "code"), [(RewardError("it raised: mend it."), 4), (StoreError("full: free some."), 3)]
)
def test_errors_of_the_engine_keep_their_code(
    fake_engine: Any, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    fake_engine.error = error
    assert main([*RUN, "--out", "r"]) == code
    assert str(error) in sentence(capsys)


def test_a_reward_that_refuses_the_first_batch_leaves_nothing(
    fake_engine: Any, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(spec: Any, out: Path, **watchers: Any) -> None:
        make_run(fake_engine.rewards, name=out.name, status="stopped", stopped="error")
        raise RewardError("it raised: mend it.")

    monkeypatch.setattr(fake_engine, "start", start)
    fake_engine.rewards = ()
    assert main([*RUN, "--out", "r"]) == 4
    assert list(tmp_path.iterdir()) == []
    fake_engine.rewards = (0.5,)
    assert main([*RUN, "--out", "r"]) == 4
    assert (tmp_path / "r" / "report.html").is_file()


def test_a_folder_that_cannot_be_used(fake_engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--out", "x" * 300]) == 2
    assert "cannot be used" in sentence(capsys)
    assert main(["run", "a \udcff dog", "-m", "mixture"]) == 2
    assert "not valid text" in sentence(capsys)


def test_a_bug_is_one_sentence_unless_debugging(
    fake_engine: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAIRLEAD_DEBUG", raising=False)
    fake_engine.error = ZeroDivisionError("two\nlines")
    assert main([*RUN, "--out", "r"]) == 70
    said = sentence(capsys)
    assert "two lines" in said
    assert "please report" in said
    monkeypatch.setenv("FAIRLEAD_DEBUG", "1")
    assert main([*RUN, "--out", "r"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_record_is_one_sentence(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    (folder / "run.sqlite").write_bytes(b"not a database at all" * 100)
    assert main(["report", str(folder)]) == 3
    assert "run.sqlite" in sentence(capsys)


def test_resume(fake_engine: Any, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    assert main(["resume", str(folder), "--budget", "nfe=900", "--json"]) == 0
    assert fake_engine.calls == [("resume", {"nfe": 900.0})]
    assert json.loads(capsys.readouterr().out)["best"]["candidate"] == 2
    assert (folder / "report.html").is_file()


def test_replay(
    fake_engine: Any, make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(make_run())
    assert main(["replay", folder, "best", "--out", "again.png"]) == 0
    assert fake_engine.calls == [("replay", 2)]
    assert (tmp_path / "again.png").is_file()
    capsys.readouterr()
    assert main(["replay", folder, "3", "--alone", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["candidate"], found["identical"], found["max_pixel_difference"]) == (3, False, 1)
    for word in ("99", "-1", "x"):
        assert main(["replay", folder, "--", word]) == 2
    capsys.readouterr()
    assert main(["replay", folder, "1", "--out", "again.png"]) == 2
    assert "exists already" in sentence(capsys)


def test_report(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_run(), make_run()
    monkeypatch.chdir(one.parent)
    assert main(["report", one.name]) == 0
    assert capsys.readouterr().out == f"{one.name}/report.html\n"
    assert main(["report", str(one), str(two), "--out", "both.html"]) == 0
    assert Path("both.html").is_file()
    assert main(["report", str(one), "--out", "x.html"]) == 2


def test_methods_are_listed_with_source_settings_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """What a person can type, and nothing else; every method says where it was published and what it costs."""
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for kind in ("steerings", "interventions"):
        for item in found[kind]:
            assert not {"picture", "rewards", "couples", "place_", "seen", "decides"} & set(item["settings"]), item[
                "name"
            ]
            assert not any("field(" in value or value.isupper() for value in item["settings"].values()), item["name"]
            assert item["name"] == "token_mean_damping" or re.search(r"arXiv|20\d\d", item["what"]), item["name"]
    for item in found["steerings"]:
        assert main(["list", "steerings", item["name"]]) == 0
        told = capsys.readouterr().out
        assert re.search(r"[Cc]osts?\b", told), item["name"]
        assert all(name in told for name in item["settings"]), item["name"]
        assert item["name"] in (Path(__file__).parents[2] / "docs" / "steering.md").read_text()
    assert main(["list", "steerings", "demon", "--json"]) == 0
    assert "2410.05760" in json.loads(capsys.readouterr().out)["about"]


def test_settings_that_have_to_be_given_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for name, setting in (("judge", "model"), ("pairwise_judge", "model"), ("http", "url")):
        assert main(["list", "rewards", name]) == 0
        assert f"{setting} (required), " in " ".join(capsys.readouterr().out.split())
    assert main(["list", "rewards", "judge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["model"] is None
    assert main(["list", "spaces"]) == 0
    assert "required" not in capsys.readouterr().out, "the run gives a space its shape"


def test_a_model_is_described_with_its_card_and_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    for name, family, can in (("pocket-unet", "StableDiffusion", "gradients"), ("pocket", "Flux", "joint sites")):
        assert main(["list", "models", name]) == 0
        told = capsys.readouterr().out
        assert all(word in told for word in (family, " MB", "64x64", "guidance", can, "MODEL_CARD.md", "airplane, "))
        assert "<unk>" not in told
        assert main(["list", "models", name, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert Path(found["card"]).is_file()
        assert {"dog", "two"} < set(found["words"])
    assert main(["list", "models", "mixture"]) == 0
    assert "closed form" in (told := capsys.readouterr().out)
    assert "no others" not in told


def test_resume_promises_no_budget_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "--help"]) == 0
    assert "[default: those of the run]" in (told := " ".join(capsys.readouterr().out.replace("│", " ").split()))
    assert "nfe=640" not in told


def test_list_runs(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_run(name="runs/a").parent.parent)
    make_run(name="runs/b", rewards=[])
    broken = make_run(name="runs/c")
    (broken / "run.sqlite").write_bytes(b"nonsense" * 1000)
    assert main(["list", "runs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [r["run"] for r in found] == ["runs/c", "runs/b", "runs/a"]
    assert "error" in found[0]
    assert found[2]["best"]["reward"] == 0.8
    assert main(["list", "runs"]) == 0
    assert "runs/a" in capsys.readouterr().out


@pytest.mark.parametrize("flag", [["--dry-run"], ["--dry-run", "--json"]])
def test_dry_run_and_price_write_nothing(
    fake_engine: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flag: list[str],
) -> None:
    unit = Cost(nfe=20, forwards=40, decodes=1, scores=1)
    priced = SimpleNamespace(
        cost_per_candidate=unit,
        baseline=Cost(),
        setup_cost=Cost(nfe=5),
        finals=Cost(),
        candidates=31,
        total=unit * 31 + Cost(nfe=5),
        seconds=4.5,
        memory=None,
        batch=16,
        dollars=0.0,
        judging=None,
        plan=RungPlan(),
        entered=(),
        warning="",
        queries=SimpleNamespace(expected=0.0, most=0.0),
        fits="",
    )
    monkeypatch.setitem(sys.modules, "fairlead.run.price", SimpleNamespace(price=lambda spec: priced))
    assert main([*RUN, *flag]) == 0
    out = capsys.readouterr().out
    if "--json" in flag:
        found = json.loads(out)
        assert (found["candidates"], found["total"]["nfe"], found["candidate"]["forwards"]) == (31, 625, 40)
    else:
        assert "31 candidates, about 4.5 s" in out
        assert "625" in out
    assert main(["price", *RUN[1:]]) == 0
    assert fake_engine.calls == []
    assert list(tmp_path.iterdir()) == []


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SimpleNamespace(name="disk", ok=False, detail="0 GB free", fix="free some")
    good = SimpleNamespace(name="python", ok=True, detail="3.11", fix="")
    found = [good]
    monkeypatch.setitem(sys.modules, "fairlead.run.doctor", SimpleNamespace(checks=lambda: found))
    assert main(["doctor"]) == 0
    found.append(bad)
    assert main(["doctor"]) == 1
    assert "free some" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_catalogue_reads_source_without_importing() -> None:
    found = {item.name: item for item in catalogue.items("rewards")}
    assert found["brightness"].what.startswith("Rec. 709")
    assert ("quality", "95") in found["jpeg_size"].settings
    assert {item.name for item in catalogue.items("searches")} >= {"best_of"}
    controls = [item for kind in ("steerings", "interventions") for item in catalogue.items(kind)]
    said = {name for item in controls for name, _ in item.settings}
    assert "strength" in said
    assert not said & {"couples", "seen"}, "what a method is, is no setting"
    assert not [item.name for item in controls for _, default in item.settings if "field(" in default]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list"], ["report", "RUN"], ["run", ""]])
def test_what_does_not_compute_is_quick_to_import(make_run: Callable[..., Path], words: list[str]) -> None:
    """No torch, no pandas, no Pillow plug-in hunt before it is needed: `--help` answers at once."""
    words = [str(make_run()) if word == "RUN" else word for word in words]
    source = str(Path(next(iter(fairlead.app.__path__))).parent.parent)
    code = (
        "import sys; from fairlead.app.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'diffusers', 'transformers', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_python_dash_m(tmp_path: Path) -> None:
    source = str(Path(next(iter(fairlead.app.__path__))).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "fairlead", "list", "x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fairlead: List 'x' is unknown")


def test_help_names_commands_in_the_order_of_use_and_cuts_no_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out.partition("Commands:")[2]
    names = [line.split()[0] for line in said.splitlines() if line.strip()]
    assert names[:3] == ["run", "resume", "replay"]
    assert names[-2:] == ["doctor", "serve"], "a command with commands of its own comes last"
    assert "..." not in said


def test_the_readme_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out.partition("Commands:")[2]
    text = (Path(__file__).parents[2] / "README.md").read_text()
    names = [line.split()[0] for line in said.splitlines() if line.strip()]
    assert [name for name in names if f"`fairlead {name}" not in text and f"`{name}`" not in text] == []
