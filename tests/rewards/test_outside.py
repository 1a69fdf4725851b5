"""Rewards that live elsewhere: in a file, behind an address, in a vision-language model."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from server import serving
from torch import Tensor

import fairlead
from fairlead.core.errors import FairleadError, RewardError
from fairlead.core.reward import Reward
from fairlead.rewards import vqa_score
from fairlead.rewards.file import FileReward
from fairlead.rewards.http import HttpReward
from fairlead.run.formula import Part, parse_reward, reward_text
from fairlead.testing import reward_laws
from fairlead.testing.rewards import pictures

MINE = """
from fairlead import Reward

def redness(images, prompts):
    return images[:, 0].mean(dim=(1, 2))

class Green(Reward):
    name = "green"
    needs_prompt = False
    differentiable = True

    def score(self, images, prompts):
        return images[:, 1].mean(dim=(1, 2))

class Wants(Green):
    def __init__(self, size):
        self.size = size

two = 2 * Green()
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my-rewards.py"
    path.write_text(MINE)
    return path


def test_a_file_in_a_formula_reads_back(mine: Path) -> None:
    tree = parse_reward(f"2*{mine}:redness + brightness")
    part = tree["+"][0]["*"][1]
    assert part.name == "file"
    assert part.settings["source"] == f"{mine}:redness"
    assert parse_reward(reward_text(tree)) == tree
    assert FileReward(**part.settings)(pictures(2), ["", ""])[0].tolist() == pictures(2)[:, 0].mean((1, 2)).tolist()


def test_a_class_in_a_file_keeps_what_it_says_of_itself(mine: Path) -> None:
    reward = FileReward(f"{mine}:Green")
    assert reward.name == "green"
    assert reward.differentiable
    reward_laws(reward, pictures(5))


def test_a_run_with_a_file_refuses_to_go_on_when_the_file_changes(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = fairlead.run("a dog", model="mixture", reward=f"{mine}:redness", steps=5, budget={"nfe": 20}, out=out)
    assert found.best.reward > 0
    mine.write_text(MINE.replace("images[:, 0]", "1 - images[:, 0]"))
    with pytest.raises(FairleadError, match="has changed since this run was started"):
        fairlead.resume(out, budget={"nfe": 40})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "It defines redness, Green"),
        ("Wants", "without arguments"),
        ("two", "is a formula"),
        ("MINE", "does not define 'MINE'"),
    ],
)
def test_a_wrong_name_in_a_file(name: str, said: str, mine: Path) -> None:
    with pytest.raises(FairleadError) as error:
        FileReward(f"{mine}:{name}")
    assert said in str(error.value)


def test_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name")
    with pytest.raises(FairleadError, match="ModuleNotFoundError"):
        FileReward(f"{path}:score")


def red(body: dict[str, Any]) -> list[float]:
    """The red value of the first pixel of every picture."""
    opened = [Image.open(io.BytesIO(base64.b64decode(i))) for i in body["images"]]
    return [image.getpixel((0, 0))[0] for image in opened]  # type: ignore[index]


def test_an_address_scores_what_it_is_sent() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[:, 0] = torch.tensor([0, 51, 255])[:, None, None] / 255
    with serving(lambda n, body: (200, {"scores": red(body)})) as server:
        assert parse_reward(f"0.5*{server.url}/score")["*"][1] == Part("http", {"url": f"{server.url}/score"})
        assert HttpReward(server.url)(images, ["a", "b", "c"])[0].tolist() == [0.0, 51.0, 255.0]
        assert server.requests[0]["prompts"] == ["a", "b", "c"]
        reward_laws(HttpReward(server.url), pictures(5))
    with serving(lambda n, body: (200, [1, None])) as server:
        first, second = HttpReward(server.url)(images[:2], ["", ""])[0].tolist()
        assert first == 1
        assert math.isnan(second)


@pytest.mark.parametrize(
    ("answer", "said", "asked"),
    [
        (lambda n, body: (200, {"scores": [1.0]}), "one number or null per image", 1),
        (lambda n, body: (200, {"scores": ["good", "bad"]}), "one number or null per image", 1),
        (lambda n, body: (200, "<html>"), "not JSON", 1),
        (lambda n, body: (404, "{}"), "status 404", 1),
        (lambda n, body: (503, "{}"), "status 503", 3),
    ],
)
def test_a_server_that_misbehaves_is_an_error_and_no_number(answer: Any, said: str, asked: int) -> None:
    with serving(answer) as server:
        with pytest.raises(RewardError) as error:
            HttpReward(server.url, pause=0.01)(pictures(2), ["", ""])
        assert said in str(error.value)
        assert len(server.requests) == asked


def test_a_busy_server_is_asked_again_and_a_dead_one_is_named() -> None:
    with serving(lambda n, body: (429, "{}") if n < 2 else (200, [1, 2])) as server:
        assert HttpReward(server.url, pause=0.01)(pictures(2), ["", ""])[0].tolist() == [1.0, 2.0]
    with pytest.raises(RewardError, match="returned no scores"):
        HttpReward("http://127.0.0.1:9", pause=0.0)(pictures(1), [""])


def test_probability_of_yes_merges_spellings() -> None:
    """evaluation.md E.9: logits yes 2, no 0, the rest impossible -> sigma(2)."""
    words = {"Yes": 0, "No": 1, "\u0120yes": 2, "\u2581no": 3, "YES": 4, "yesterday": 5, "not": 6, "maybe": 7}
    yes, no = vqa_score.spellings(words, "yes"), vqa_score.spellings(words, "no")
    assert (yes, no) == ([0, 2, 4], [1, 3])
    logits = torch.full((1, 8), -math.inf)
    logits[0, 0], logits[0, 1] = 2.0, 0.0
    assert vqa_score.probability(logits, yes, no).item() == pytest.approx(0.880797, abs=1e-6)
    assert vqa_score.probability(logits, yes, no, "raw").item() == pytest.approx(0.880797, abs=1e-6)
    logits[0, 2], logits[0, 7] = 2.0, 3.0
    both = 2 * math.exp(2)
    assert vqa_score.probability(logits, yes, no).item() == pytest.approx(both / (both + 1), abs=1e-6)
    assert vqa_score.probability(logits, yes, no, "raw").item() == pytest.approx(
        both / (both + 1 + math.exp(3)), abs=1e-6
    )


class Seer:
    """Says yes as loudly as the picture is bright, if the question names a dog."""

    device = "cpu"

    def eval(self) -> Seer:
        return self

    requires_grad_ = to = lambda self, *_: self

    def __call__(self, pixels: Tensor, text: list[str]) -> Any:
        logits = torch.zeros(1, 3, 3)
        logits[0, -1, 0] = pixels.mean() * (1 if "a dog" in text[0] else -1)
        return SimpleNamespace(logits=logits)


class Processor:
    tokenizer = SimpleNamespace(get_vocab=lambda: {"Yes": 0, "No": 1, "<image>": 2})

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        return str(messages[0]["content"][1]["text"])

    def __call__(self, text: list[str], images: list[Image.Image], return_tensors: str) -> Any:
        pixels = torch.tensor([float(v) for v in images[0].convert("L").tobytes()]) / 255

        class Inputs(dict[str, Any]):
            def to(self, device: str) -> Inputs:
                return self

        return Inputs(pixels=pixels, text=text)


def test_vqa_score_asks_the_reference_question_of_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda name: Processor())
    found = (Seer(), {"missing_keys": []})
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lambda name, **words: found)
    reward = vqa_score.VqaScore("fake")
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4), torch.ones(3, 4, 4)])
    found = reward(images, ["a dog", "a dog", "a cat"])[0].tolist()
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))], abs=1e-6)
    reward_laws(reward, pictures(4), ["a dog"] * 4)
    with pytest.raises(FairleadError, match=r"must contain \{\}"):
        vqa_score.VqaScore("fake", question="is it good?")


def test_every_registered_reward_says_what_it_is() -> None:
    from fairlead.run import registry

    for name in registry.table("rewards"):
        if name == "detector":
            continue
        kind = registry.resolve("rewards", name)
        assert issubclass(kind, Reward)
        assert kind.unit, name
        assert kind.licence, name
        assert kind.source or name in ("brightness", "jpeg_size"), name


def test_vqa_score_on_a_real_architecture_without_torchvision(tmp_path: Path) -> None:
    """A tiny random Qwen2-VL: its processor wants torchvision for films, which pictures do not need."""
    import tiny_vlm
    from transformers import AutoModelForImageTextToText

    folder = tiny_vlm.save(tmp_path)
    reward = vqa_score.VqaScore(str(folder), question="Does this figure show {} ?", dtype="float32")
    assert (reward._yes, reward._no) == ([8, 10], [9, 11])
    images = pictures(3, 32)
    found = reward(images, ["a dog", "a cat", "a dog"])[0]
    net = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    asked = reward._processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Does this figure show a cat ?"}]}],
        add_generation_prompt=True,
    )
    image = Image.fromarray((images[1] * 255).round().byte().permute(1, 2, 0).numpy())
    with torch.no_grad():
        logits = net(**reward._processor(text=[asked], images=[image], return_tensors="pt")).logits[0, -1]
    yes, no = logits[[8, 10]].logsumexp(0), logits[[9, 11]].logsumexp(0)
    assert found[1] == pytest.approx(float(torch.sigmoid(yes - no)), abs=1e-6)
    assert len({round(v, 6) for v in found.tolist()}) == 3


def test_the_reward_in_the_documentation_keeps_the_laws() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    code = text.partition("    class Redness")[2].partition("\n`fairlead.testing")[0]
    names: dict[str, Any] = {"fairlead": fairlead}
    exec("class Redness" + code.replace("\n    ", "\n"), names)
    reward_laws(names["Redness"](), pictures(4))


def test_the_documentation_names_every_reward() -> None:
    from fairlead.run import registry

    text = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    lost = [name for name in registry.BUILTIN["rewards"] if f"`{name}" not in text and name != "file"]
    assert not lost
