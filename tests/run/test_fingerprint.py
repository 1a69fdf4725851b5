"""A record knows its weights: resuming or replaying it with others is refused, reading it is not."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from fairlead.core.errors import FairleadError
from fairlead.run import engine, fingerprint, models
from fairlead.run.claim import connect
from fairlead.run.part import Part
from fairlead.run.rows import seal
from fairlead.run.spec import Spec, make_spec
from fairlead.run.store import Store
from fairlead.run.view import View


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = models.folder("pocket-turbo")
    assert source is not None
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("models") / "own"))


def made(model: str, out: Path) -> Store:
    spec = make_spec("a photo of a dog", model=model, reward="brightness", steps=1, budget={"nfe": 2})
    return engine.start(spec, out)


def change_versions(folder: Path, **values: str | None) -> None:
    with closing(connect(folder / "run.sqlite")) as store, store:
        (text,) = store.execute("select versions from run").fetchone()
        versions = {k: v for k, v in {**json.loads(text), **values}.items() if v is not None}
        store.execute("update run set versions=?", (json.dumps(versions),))
        seal(store, "run")


def test_the_record_holds_the_digest_of_the_folder(model: Path, tmp_path: Path) -> None:
    store = made(str(model), tmp_path / "run")
    assert store.versions[fingerprint.MODEL] == fingerprint.digest(sorted(model.rglob("*.safetensors")), model)
    assert engine.replay(tmp_path / "run", 0).identical


def test_changed_weights_are_refused_by_replay_and_resume_but_read(model: Path, tmp_path: Path) -> None:
    made(str(model), tmp_path / "run")
    weights = next(model.rglob("transformer/*.safetensors"))
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-2] + bytes([before[-2] ^ 1, before[-1]]))
        with pytest.raises(FairleadError, match=r"weights of .*a replay would draw another picture"):
            engine.replay(tmp_path / "run", 0)
        with pytest.raises(FairleadError, match="would mix the pictures of two models"):
            engine.resume(tmp_path / "run", budget={"nfe": 4})
        assert len(View.read(tmp_path / "run").candidates) == 2
    finally:
        weights.write_bytes(before)
    assert engine.resume(tmp_path / "run", budget={"nfe": 3}).status == "finished"


def test_a_record_without_a_fingerprint_has_its_releases_weights(tmp_path: Path) -> None:
    made("pocket-turbo", tmp_path / "run")
    change_versions(tmp_path / "run", **{fingerprint.MODEL: None})
    today = fingerprint.of(Spec("", model=Part("pocket-turbo")))[fingerprint.MODEL]
    if today == fingerprint.WEIGHTS_OF_0_1["pocket-turbo"]:
        assert engine.replay(tmp_path / "run", 0).identical
    else:
        with pytest.raises(FairleadError, match="the record was made with"):
            engine.replay(tmp_path / "run", 0)


def test_what_has_no_files_has_no_fingerprint() -> None:
    assert fingerprint.of(Spec("", model=Part("mixture"))) == {}
    assert fingerprint.of(Spec("", model=Part(models.LIVE))) == {}


def test_every_byte_of_a_small_file_and_the_size_of_a_large_one_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def digest(folder: Path, content: bytes) -> str:
        folder.mkdir()
        (folder / "a.safetensors").write_bytes(content)
        return fingerprint.digest([folder / "a.safetensors"], folder)

    contents = (b"0" * 100, b"0" * 50 + b"1" + b"0" * 49, b"0" * 101)
    digests = {digest(tmp_path / str(i), content) for i, content in enumerate(contents)}
    monkeypatch.setattr(fingerprint, "WHOLE", 10)
    monkeypatch.setattr(fingerprint, "PART", 4)
    digests.add(digest(tmp_path / "large", b"0" * 102))
    assert len(digests) == 4
