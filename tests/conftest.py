"""What several suites need: items registered for one test, a random FLUX folder, and whether pocket is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fairlead.run import registry

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each, on two cores, wait for one another in busy loops: fifteen times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"  # the defaults of whoever runs the tests change none of them
os.environ.pop("FAIRLEAD_CONFIG", None)
settings.register_profile(
    "here",
    deadline=None,  # a busy machine is no mistake of the code
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("here")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """register(kind, name, "module:attribute") for the length of one test."""

    def add(kind: str, name: str, where: str) -> None:
        monkeypatch.setitem(registry.BUILTIN[kind], name, where)
        registry.table.cache_clear()

    yield add
    monkeypatch.undo()
    registry.table.cache_clear()


@pytest.fixture(autouse=True, scope="session")
def no_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the user of this machine has calibrated must not plan the runs of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        state = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(state))
        yield state


@pytest.fixture(autouse=True)
def no_calibrations_of_other_tests(no_calibrations: Path) -> Iterator[None]:
    """What one test has calibrated must not plan the runs of the next."""
    yield
    (no_calibrations / "fairlead" / "calibrations.json").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run on the analytic model; to be copied, not changed."""
    from fairlead.run import engine
    from fairlead.testing.runs import small_spec

    folder = tmp_path_factory.mktemp("made") / "run"
    engine.start(small_spec(), folder).close()
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks of these tests are so small that a second thread only waits; the larger suites keep theirs."""
    if request.path.parent.name in ("app", "bench", "pocket"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """flux_folder(guidance_embeds=..., scheduler={...}): a saved FluxPipeline with tiny random weights, made once."""
    from tiny_flux import save

    made: dict[str, Path] = {}

    def get(guidance_embeds: bool = False, **scheduler: Any) -> Path:
        name = repr((guidance_embeds, sorted(scheduler.items())))
        if name not in made:
            made[name] = tmp_path_factory.mktemp("flux")
            save(made[name], guidance_embeds, scheduler)
        return made[name]

    return get


@pytest.fixture
def tiny_flux(flux_folder: Callable[..., Path]) -> Callable[..., Any]:
    """tiny_flux(true_cfg_scale=..., ...): the adapter over such a folder, 16x16 pixels."""

    def get(guidance_embeds: bool = False, scheduler: dict[str, Any] | None = None, **settings: Any) -> Any:
        from fairlead.models.flux import Flux

        wanted = {"height": 16, "width": 16, "max_sequence_length": 12, **settings}
        return Flux(str(flux_folder(guidance_embeds, **(scheduler or {}))), **wanted)

    return get
