"""Defaults in one place: which file wins, what a file may choose, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fairlead
from fairlead.app.cli import main
from fairlead.app.options import with_run_options
from fairlead.core.errors import FairleadError
from fairlead.run import config, machine
from fairlead.run.options import RunOptions
from fairlead.run.spec import make_spec
from fairlead.run.view import View


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a folder for the user's own file."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.delenv(config.VARIABLE, raising=False)
    return folder


def write_own(text: str) -> Path:
    path = config.own_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_arguments_win_over_this_folder_which_wins_over_the_own_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own('model = "mixture"\nreward = "jpeg_size"\nbudget = "nfe=40"\n[studio]\nport = 7000\n')
    (here / config.NAME).write_text('reward = "brightness"\nruns = "found"\n')
    found = config.in_force()
    assert (found["model"].value, found["model"].source) == ("mixture", own)
    assert (found["reward"].value, found["reward"].source) == ("brightness", Path(config.NAME))
    assert (found["studio.port"].value, found["server.port"].source) == (7000, None)
    result = fairlead.run("a dog")
    assert (result.spec.model.name, result.spec.reward.name, result.spec.budget) == (
        "mixture",
        "brightness",
        {"nfe": 40.0},
    )
    assert fairlead.run("a dog", reward="jpeg_size", budget={"nfe": 20}).spec.reward.name == "jpeg_size"
    assert main(["run", "a dog", "--budget", "nfe=20"]) == 0
    assert "From fairlead.toml: model = 'mixture', reward = 'brightness'. See 'fairlead config'." in (
        capsys.readouterr().err
    )
    (folder,) = (here / "found").iterdir()
    view = View.read(folder)
    assert (view.spec.model.name, view.spec.reward.name, view.spec.budget) == ("mixture", "brightness", {"nfe": 20.0})
    assert main(["list", "runs"]) == 0
    assert f"found/{folder.name}" in capsys.readouterr().out
    assert main(["run", "a dog", "--model", "mixture", "--reward", "brightness", "--budget", "nfe=20"]) == 0
    assert "From fairlead.toml" not in capsys.readouterr().err, "nothing came from it"


def test_a_command_keeps_a_default_of_its_own(here: Path) -> None:
    """A benchmark without a budget makes plain samples, whatever budget runs have."""
    write_own('reward = "brightness"\nbudget = "nfe=40"\n')
    seen = []

    @with_run_options(("reward", "budget"), {"budget": None})
    def command(options: RunOptions) -> int:
        seen.append(options)
        return 0

    command(reward=None, budget=None)
    command(reward="jpeg_size", budget="nfe=2")
    assert [(o.reward, o.budget) for o in seen] == [("brightness", None), ("jpeg_size", "nfe=2")]


def test_plans_and_records_are_complete(here: Path) -> None:
    """What is written down elsewhere means the same in every folder."""
    plain = make_spec("a dog")
    write_own('model = "pocket-turbo"\nreward = "brightness"\nbudget = "nfe=8"\n')
    assert make_spec("a dog") == plain


def test_the_command_says_what_is_in_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_own('[server]\nport = 9000\nhost = "0.0.0.0"\n')
    assert main(["config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["server.port"] == {"value": 9000, "from": str(own)}
    assert found["settings"]["model"] == {"value": "pocket", "from": "default"}
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in config.SETTINGS)
    assert str(own) in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "pocket"', "Setting 'modle' of fairlead.toml is unknown. Did you mean 'model'?"),
        ("[studio]\nprot = 1", "Setting 'studio.prot' of fairlead.toml is unknown. Did you mean 'studio.port'?"),
        ("[studoi]\nport = 1", "Setting 'studoi' of fairlead.toml is unknown."),
        ("model = 3", "fairlead.toml: model is 3: must be text in quotes."),
        ("model = ", "fairlead.toml is not valid TOML ("),
        ('reward = "nice"', "fairlead.toml: Reward 'nice' is unknown."),
        ('budget = "nfe=many"', "fairlead.toml: Budget 'nfe=many' is not name=number."),
        ("[studio]\nport = 70000", "fairlead.toml: studio.port is 70000: must be a whole number in [0, 65535]."),
        ('device = "cuad"', "fairlead.toml sets device to 'cuad', which is not available here."),
    ],
)
def test_a_wrong_file_is_one_sentence(here: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / config.NAME).write_text(text)
    assert main(["run", "a dog", "--model", "mixture", "--steps", "2"]) == 2
    err = capsys.readouterr().err.replace("loading model …\n", "")
    assert said in err
    assert err.count("\n") == 1
    assert list(here.iterdir()) == [here / config.NAME]


BAD = [
    ('reward = "evil.py:score"', "reward", "executes or reads a file"),
    ("reward = \"clip_score + file(source='evil.py:score')\"", "reward", "executes or reads a file"),
    ("reward = \"zscore(brightness, stats='stats.json')\"", "reward", "executes or reads a file"),
    ("reward = \"clip_score + 0*judge(model='x')\"", "reward", "sends pictures, keys or money to a server"),
    ('reward = "http://evil.test/score"', "reward", "sends pictures, keys or money to a server"),
    ("reward = \"min(clip_score, pairwise_judge(model='x'))\"", "reward", "sends pictures, keys or money"),
    ('budget = "nfe=640,dollars=100"', "budget", "allows spending money"),
    ('runs = "/tmp/elsewhere"', "runs", "is outside the current folder"),
    ('runs = "a/../../elsewhere"', "runs", "is outside the current folder"),
    ('runs = "~/elsewhere"', "runs", "is outside the current folder"),
    ('[server]\nhost = "0.0.0.0"', "server.host", "decides who can connect"),
    ('[studio]\nhost = "0.0.0.0"', "studio.host", "decides who can connect"),
]


@pytest.mark.parametrize(("text", "name", "why"), BAD)
def test_a_file_of_somebody_else_executes_asks_and_opens_nothing(here: Path, text: str, name: str, why: str) -> None:
    """The same line in the user's own file is in force."""
    stats = '{"brightness": {"mean": 0, "std": 1}}'
    (here / "stats.json").write_text(stats)
    (here / "evil.py").write_text("from pathlib import Path\nPath('executed').touch()\ndef score(i, p): return [0.0]\n")
    (here / config.NAME).write_text(text)
    with pytest.raises(FairleadError, match=rf"fairlead.toml sets {name} to .*, which {why}.* as an argument\.$"):
        fairlead.run("a dog", model="mixture")
    assert not (here / "executed").exists()
    (here / config.NAME).unlink()
    own = write_own(text)
    assert config.in_force()[name].source == own


def test_a_file_of_somebody_else_is_refused_before_anything_it_names_is_opened(here: Path) -> None:
    (here / config.NAME).write_text('reward = "missing.py:score"')
    with pytest.raises(FairleadError, match="which executes or reads a file"):
        config.in_force()


def test_the_own_file_can_be_named_and_is_the_own_one_wherever_it_lies(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.VARIABLE, str(here / "no.toml"))
    with pytest.raises(FairleadError, match=r"FAIRLEAD_CONFIG is '.*no.toml', which is not a file"):
        config.in_force()
    mine = here / config.NAME
    mine.write_text('[studio]\nhost = "0.0.0.0"\n')
    monkeypatch.setenv(config.VARIABLE, str(mine))
    assert config.in_force()["studio.host"].value == "0.0.0.0"


def test_the_device_is_the_one_that_is_named(here: Path) -> None:
    usual = machine.device()
    write_own('device = "cpu"')
    assert machine.device() == "cpu"
    write_own("")
    assert machine.device() == usual


def test_every_default_is_a_value_that_may_be_set() -> None:
    for name, setting in config.SETTINGS.items():
        if name != "device":
            assert setting.check(name, setting.default) == setting.default
