"""Memory: counted without data, planned with, and halved when it runs out with the same candidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import tiny_pipelines as tiny
from fairlead.core.errors import FairleadError, OutOfMemory
from fairlead.core.model import whole
from fairlead.models import _load
from fairlead.models.mixture import Mixture
from fairlead.models.sd3 import StableDiffusion3
from fairlead.models.sdxl import StableDiffusionXL
from fairlead.run import engine, memory, models
from fairlead.run.dry_run import footprint
from fairlead.run.price import price
from fairlead.run.setup import resolve
from fairlead.run.spec import Part, make_spec
from fairlead.run.store import Store


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.saved(tmp_path_factory.mktemp("m"), tiny.sdxl, diffusers.EulerDiscreteScheduler(**tiny.SCALED))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.saved(tmp_path_factory.mktemp("m"), tiny.sd3, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def test_what_is_counted_without_data_is_what_is_alive(sdxl: str, sd3: str) -> None:
    for model in (StableDiffusionXL(sdxl), StableDiffusion3(sd3)):
        found = memory.footprint(model)
        assert found is not None
        parts = [p for p in model.pipe.components.values() if isinstance(p, torch.nn.Module)]
        assert found.weights == sum(w.numel() * w.element_size() for p in parts for w in p.parameters())
        cond, at = model.encode([""]), model.levels(2)[0]
        x = torch.zeros(1, *model.latent)
        with torch.no_grad():
            real = max(
                memory.peak(lambda m=model, c=cond, a=at, x=x: m.predict(x, a, c, whole(1, a))),
                memory.peak(lambda m=model, x=x: m.decode(x)),
            )
        assert found.picture == pytest.approx(real, rel=0.2)
        assert found.at(3) == found.weights + 3 * found.picture
    assert memory.footprint(Mixture()) is None


def test_the_way_back_is_counted(sdxl: str, sd3: str) -> None:
    """With gradients the activations of a call are alive until it is differentiated."""
    for model in (StableDiffusionXL(sdxl), StableDiffusion3(sd3)):
        there, back = memory.footprint(model), memory.footprint(model, gradient=True)
        assert there is not None
        assert back is not None
        assert back.weights == there.weights
        assert back.picture > 1.5 * there.picture
        cond, at = model.encode([""]), model.levels(2)[0]

        def real(work: Callable[[Any], Any], model: Any = model) -> int:
            x = torch.zeros(1, *model.latent, requires_grad=True)
            return memory.peak(lambda: torch.autograd.grad(work(x).sum(), x), model.networks())

        found = max(real(lambda x, m=model, c=cond, a=at: m.predict(x, a, c, whole(1, a))), real(model.decode))
        assert back.picture == pytest.approx(found, rel=0.2)


def test_what_a_steering_asks_for_at_once_is_counted(sdxl: str, register: Callable[..., None]) -> None:
    register("searches", "climb", "items:Climb")
    own = StableDiffusionXL(sdxl)
    there, back = memory.footprint(own), memory.footprint(own, gradient=True)
    assert there is not None
    assert back is not None

    def need(**words: Any) -> memory.Footprint:
        spec = make_spec("a dog", model=Part("python", {}), reward="brightness", steps=10, batch=4, **words)
        found = footprint(resolve(spec, model=StableDiffusionXL(sdxl)))
        assert found is not None
        return found

    assert need() == there
    assert need(search="climb") == back
    scored = memory.footprint(own, decodes=3)
    assert scored is not None
    assert scored.picture > there.picture
    assert need(steer="paths(children=3)", group=2) == scored  # solved one after the other, scored together


def test_text_encoders_leave_where_memory_is_short(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, where in ((1, "cpu"), (1 << 40, "meta"), (None, "meta")):
        monkeypatch.setattr(_load, "free", lambda device, room=room: room)
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
        _load._place(pipe, "meta", None)
        assert {pipe.unet.device.type, pipe.vae.device.type} == {"meta"}
        assert {pipe.text_encoder.device.type, pipe.text_encoder_2.device.type} == {where}
        monkeypatch.setattr(_load, "load", lambda *source, pipe=pipe, **loading: pipe)
        model = StableDiffusionXL(sdxl)
        assert model._text_away == (where == "cpu")
        assert model.device.type == "meta"


def test_larger_pictures_need_more(sdxl: str) -> None:
    small, large = (memory.footprint(StableDiffusionXL(sdxl, height=s, width=s)) for s in (16, 48))
    assert small is not None
    assert large is not None
    assert large.picture > 4 * small.picture


def test_the_batch_is_what_fits(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StableDiffusionXL(sdxl)
    need = memory.footprint(model)
    assert need is not None
    spec = make_spec("a dog", model=sdxl, reward="brightness", defaults=models.defaults(sdxl))
    assert spec.batch == 0
    assert memory.fitted(spec, model).batch == memory.USUAL
    model.device = torch.device("cuda")
    monkeypatch.setattr(memory, "free", lambda device: int(10.5 / memory.SPARE * need.picture))
    monkeypatch.setattr(memory, "footprint", lambda model: need)
    assert memory.fitted(spec, model).batch == 10
    grouped = make_spec("a dog", model=sdxl, reward="brightness", group=4, defaults=models.defaults(sdxl))
    assert memory.fitted(grouped, model).batch == 8
    given = make_spec("a dog", model=sdxl, reward="brightness", batch=3, defaults=models.defaults(sdxl))
    assert memory.fitted(given, model).batch == 3
    monkeypatch.setattr(memory, "free", lambda device: 1)
    assert memory.fitted(spec, model).batch == 1


def test_price_states_memory(sdxl: str) -> None:
    spec = make_spec(
        "a dog", model=sdxl, reward="brightness", steps=2, budget={"nfe": 8}, defaults=models.defaults(sdxl)
    )
    found = price(spec)
    assert found.batch == memory.USUAL
    assert found.memory is not None
    assert found.memory > 0
    assert price(make_spec("a dog", model="mixture", reward="brightness")).memory is None


def run(spec: Any, out: Path, model: Any) -> Store:
    engine.start(spec, out, model=model).close()
    return Store.open(out)


def fails_above(model: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The decoder runs out of memory above so many pictures, in a way only the worker can mend."""
    seen: list[int] = []
    decode = model.decode

    def small(x: Any) -> Any:
        seen.append(len(x))
        if len(x) > rows:
            raise torch.OutOfMemoryError("simulated")
        return decode(x)

    monkeypatch.setattr(model, "decode", small)
    return seen


@pytest.mark.parametrize("search", ["best_of", "climb"])
def test_a_run_short_of_memory_has_the_same_candidates(
    search: str, sdxl: str, tmp_path: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("searches", "climb", "items:Climb")
    width = 4 if search == "best_of" else 2
    spec = make_spec(
        "a dog",
        model=Part("python", {"pipeline": "x"}),
        reward="brightness",
        search=search,
        steps=2,
        batch=width,
        budget={"nfe": 16},
    )
    plain = run(spec, tmp_path / "plain", StableDiffusionXL(sdxl, guidance_scale=2.0))
    model = StableDiffusionXL(sdxl, guidance_scale=2.0)
    seen = fails_above(model, 1, monkeypatch)
    short = run(spec, tmp_path / "short", model)
    a, b = plain.candidates(), short.candidates()
    assert len(a) == len(b) == 8
    assert [c.reward for c in a] == pytest.approx([c.reward for c in b], abs=1e-4)
    assert plain.spent().nfe == short.spent().nfe == 16
    assert plain.spent().forwards == short.spent().forwards
    assert seen[-8:] == [1] * 8 or seen[-4:] == [1] * 4


def test_a_group_that_does_not_fit_is_said(sdxl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(
        "a dog", model=Part("python", {}), reward="brightness", steps=2, group=2, batch=4, budget={"nfe": 8}
    )
    model = StableDiffusionXL(sdxl, guidance_scale=1.0)
    fails_above(model, 1, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"Memory ran out with 2 picture\(s\) at once"):
        run(spec, tmp_path / "run", model)
    assert issubclass(OutOfMemory, FairleadError)
