"""The wheel, built and installed in a new environment, makes a picture from its embedded weights."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, cwd=cwd, env=clean)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=ROOT)
    (path,) = out.glob("*.whl")
    return path


def test_weights_in_the_wheel_are_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {i.filename: i.file_size for i in archive.infolist() if "/pocket/assets/" in i.filename}
    assert sum(name.endswith("model_index.json") for name in sizes) >= 3
    assert max(sizes.values()) <= 15_000_000
    assert sum(sizes.values()) <= 100_000_000


def test_installed_wheel_makes_a_picture(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    inside = tmp_path / "env" / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", inside, "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path
    )
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(inside, "-c", ask, cwd=tmp_path).strip())
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (own / "dependencies.pth").write_text("\n".join(sorted(shared)) + "\n")  # installing torch again would take minutes
    where = run(inside, "-c", "import fairlead; print(fairlead.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(own)
    out = run(
        tmp_path / "env" / "bin" / "fairlead",
        "run",
        "a photo of a dog",
        "--model",
        "pocket-turbo",
        "--reward",
        "brightness",
        "--budget",
        "nfe=4",
        "--seed",
        "0",
        "--json",
        "--out",
        tmp_path / "made",
        cwd=tmp_path,
    )
    said = json.loads(out.strip().splitlines()[-1])
    assert said["cost"]["nfe"] == 4
    (best,) = (tmp_path / "made").glob("best.png")
    with Image.open(best) as image:
        assert image.size == (64, 64)
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100
