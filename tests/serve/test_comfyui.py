"""The nodes of `integrations/comfyui` against a real server, in a stand-in of ComfyUI (see comfy_stub.py)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serve import comfy_stub

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> comfy_stub.Comfy:
    return comfy_stub.install(monkeypatch)


@pytest.fixture
def pack(comfy: comfy_stub.Comfy, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack as ComfyUI loads it: a folder under a name of its own."""
    for name in ("", ".nodes", ".client", ".convert"):
        monkeypatch.delitem(sys.modules, f"comfy_fairlead{name}", raising=False)
    spec = importlib.util.spec_from_file_location("comfy_fairlead", PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "comfy_fairlead", module)
    spec.loader.exec_module(module)
    return module


def nodes_of(pack: Any) -> dict[str, Any]:
    async def loaded() -> list[Any]:
        return list(await (await pack.comfy_entrypoint()).get_node_list())

    return {node.define_schema().node_id: node for node in asyncio.run(loaded())}


def test_what_comfyui_loads(pack: Any) -> None:
    assert set(nodes_of(pack)) == {"Fairlead_Search", "Fairlead_Score", "Fairlead_Keep"}
    text = "".join(path.read_text() for path in PACK.glob("*.py"))
    assert "NODE_CLASS_MAPPINGS" not in text, "ComfyUI would ignore comfy_entrypoint"
    assert "import fairlead" not in text
    project = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    assert "comfyui" not in project["project"]["name"].lower()


def test_the_client_needs_neither_comfyui_nor_fairlead() -> None:
    check = "any(name.split('.')[0] in ('fairlead', 'torch', 'comfy') for name in sys.modules)"
    code = f"import sys, client; sys.exit({check})"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK, check=False).returncode == 0


def test_the_example_has_the_inputs_and_outputs_of_the_nodes(pack: Any) -> None:
    nodes = nodes_of(pack)
    flow = json.loads(next((PACK / "example_workflows").glob("*.json")).read_text())
    used = {one["type"]: one for one in flow["nodes"]}
    assert set(nodes) <= set(used)
    for name, node in nodes.items():
        schema = node.define_schema()
        assert [one["name"] for one in used[name]["outputs"]] == [one.id for one in schema.outputs]
        assert [one["name"] for one in used[name]["inputs"]] == [one.id for one in schema.inputs if one.kind is None]
        values = iter(used[name]["widgets_values"])
        for one in schema.inputs:
            if one.kind is not None:
                one.check(next(values))
            if one.control_after_generate:
                assert next(values) == "fixed"
        assert not list(values)


def test_every_value_of_8_bits_comes_back(pack: Any) -> None:
    """Values outside [0, 1] are clamped; NaN, no picture and two channels are refused; grey and alpha are taken."""
    convert = sys.modules["comfy_fairlead.convert"]
    every = (torch.arange(256).float() / 255).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    assert torch.equal(convert.to_tensor(convert.to_base64(every)), every)
    wide = convert.to_tensor(convert.to_base64(torch.tensor([-1.0, 2.0, 0.5]).reshape(1, 1, 1, 3)))
    assert wide.flatten().tolist() == [0.0, 1.0, pytest.approx(128 / 255)]
    for channels in (1, 4):
        assert convert.to_tensor(convert.to_base64(torch.ones(1, 4, 4, channels))).shape == (1, 4, 4, 3)
    for wrong in (
        torch.full((1, 2, 2, 3), float("nan")),
        torch.ones(0, 2, 2, 3),
        torch.ones(1, 2, 2, 2),
        torch.ones(2),
    ):
        with pytest.raises(ValueError, match="images has"):
            convert.to_base64(wrong)


DRAW = {"prompt": "a dog", "reward": "brightness", "advanced": '{"steps": 4}'}


def test_search_score_and_keep(pack: Any, comfy: comfy_stub.Comfy, server: Any) -> None:
    """One graph: a search, its pictures scored, and those kept that are good and different."""
    nodes = nodes_of(pack)
    found = comfy.run(nodes["Fairlead_Search"], **DRAW, n=3, server=server.root)
    winner, candidates, rewards, run, report = found
    assert winner.shape[0] == 1
    assert torch.equal(winner, candidates[:1])
    assert len(rewards) == len(candidates) == 3
    assert report == f"{server.root}/v1/runs/{run}"
    assert server.ask("GET", f"/v1/runs/{run}").json()["best"]["reward"] == rewards[0]
    again = comfy.run(nodes["Fairlead_Search"], **DRAW, n=3, server=f"{server.root}/v1/")
    assert torch.equal(again[1], candidates), "the same inputs are the same run"

    scores, best, ordered, table = comfy.run(
        nodes["Fairlead_Score"], images=candidates, prompt="a dog", reward="brightness", server=server.root
    )
    assert scores == pytest.approx(rewards), "pictures come through ComfyUI unchanged"
    assert torch.equal(best, ordered[:1])
    assert table.splitlines()[0].startswith("1. picture")
    many = candidates.repeat(6, 1, 1, 1)
    words = {"images": many, "prompt": "", "reward": "brightness", "server": server.root}
    assert comfy.run(nodes["Fairlead_Score"], **words)[0] == scores * 6, "18 pictures are two requests"
    words = {"images": many, "likeness": "pixels", "server": server.root}
    kept, indices = comfy.run(nodes["Fairlead_Keep"], **words, n=2)
    assert len({i % 3 for i in indices}) == 2, "equal pictures are not kept beside each other"
    assert torch.equal(kept, many[indices])
    assert comfy.run(nodes["Fairlead_Keep"], **words, n=1, reward="brightness")[1] == [scores.index(max(scores))]


def test_previews_and_progress(pack: Any, comfy: comfy_stub.Comfy, server: Any) -> None:
    words = {**DRAW, "prompt": "previews", "budget": "nfe=4000", "server": server.root}
    comfy.run(nodes_of(pack)["Fairlead_Search"], **words, n=1)
    shares = [value for value, _, _ in comfy.progress]
    assert shares == sorted(shares)
    assert any(preview is not None for _, _, preview in comfy.progress)


def test_the_interrupt_button_stops_the_run(pack: Any, comfy: comfy_stub.Comfy, server: Any) -> None:
    comfy.is_interrupted = lambda: len(comfy.progress) > 2
    words = {**DRAW, "prompt": "interrupted", "budget": "nfe=2000000", "server": server.root}
    stopped = server.counted('fairlead_runs_total{end="stopped"}')
    with pytest.raises(comfy_stub.InterruptProcessingException):
        comfy.run(nodes_of(pack)["Fairlead_Search"], **words, n=1)
    until = time.monotonic() + 60
    while server.counted('fairlead_runs_total{end="stopped"}') == stopped:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_mistakes_are_one_sentence(
    pack: Any, comfy: comfy_stub.Comfy, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_API_KEY", "fl-secret")
    search = nodes_of(pack)["Fairlead_Search"]
    words = {**DRAW, "server": server.root}
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "must be like", {"advanced": "[]"}),
        (ValueError, "advanced is not JSON", {"advanced": "{"}),
        (ValueError, "does not afford", {"budget": "nfe=1"}),
        (ValueError, "not served here", {"model": "flux"}),
        (ValueError, "may not be named", {"reward": "http(url='http://127.0.0.1:9')"}),
        (ValueError, "must be an address like", {"server": "file:///etc/passwd"}),
        (ValueError, "must be an address like", {"server": "http://user:pass@127.0.0.1"}),
        (RuntimeError, "does not answer", {"server": "http://127.0.0.1:9"}),
    ]
    for kind, part, wrong in cases:
        with pytest.raises(kind) as caught:
            comfy.run(search, **{**words, **wrong})
        assert part in str(caught.value)
        assert "fl-secret" not in str(caught.value)
    with pytest.raises(AssertionError, match="larger than"):
        comfy.run(search, **words, n=99)
    with pytest.raises(ValueError, match=r"must be in \[1, 10\]"):
        asyncio.run(search.execute(**words, budget="low", n=99, seed=0))


@pytest.mark.parametrize(
    ("address", "own", "is_sent"),
    [
        ("http://127.0.0.1:8484", "", True),
        ("http://localhost:1", "", True),
        ("http://evil.test", "", False),
        ("http://127.0.0.1.evil.test", "", False),
        ("https://gpu.example", "https://gpu.example/", True),
    ],
)
def test_a_key_goes_where_the_user_says(
    pack: Any, monkeypatch: pytest.MonkeyPatch, address: str, own: str, is_sent: bool
) -> None:
    """A workflow of somebody else names any server; the key is not sent there."""
    monkeypatch.setenv("FAIRLEAD_SERVER", own)
    assert sys.modules["comfy_fairlead.client"].Client(address)._is_trusted is is_sent


def test_the_key_reaches_a_server_with_keys(
    pack: Any,
    comfy: comfy_stub.Comfy,
    guarded: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score = nodes_of(pack)["Fairlead_Score"]
    words: dict[str, Any] = {"images": torch.ones(1, 8, 8, 3), "prompt": "", "reward": "brightness"}
    monkeypatch.delenv("FAIRLEAD_API_KEY", raising=False)
    with pytest.raises(ValueError, match="FAIRLEAD_API_KEY"):
        comfy.run(score, **words, server=guarded.root)
    monkeypatch.setenv("FAIRLEAD_API_KEY", guarded.pair[0])
    assert comfy.run(score, **words, server=guarded.root)[0] == [1.0]
