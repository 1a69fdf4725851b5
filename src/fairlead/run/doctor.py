"""What a machine needs to run, checked one by one, each failure with its cure."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from fairlead.run import registry


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    """What to do about it, empty if nothing."""


def checks() -> list[Check]:
    """All findings; a check that fails itself is a finding too."""
    out: list[Check] = []
    for check in (_python, _packages, _torch, _torchvision, _embedded, _plugins, _disk):
        try:
            out.extend(check())
        except Exception as error:
            out.append(Check(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}", "report this"))
    return out


def _python() -> Iterator[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        "python", sys.version_info >= (3, 11), found, "" if sys.version_info >= (3, 11) else "use Python 3.11 or newer"
    )


def _packages() -> Iterator[Check]:
    for name in ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow", "typer", "rich"):
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, "not installed", f"pip install {name}")
    try:
        yield Check("pandas", True, f"{version('pandas')} (candidates come as a table)")
    except PackageNotFoundError:
        yield Check(
            "pandas", True, "not installed; candidates come as a list (pip install 'fairlead[tables]' for a table)"
        )


def _torch() -> Iterator[Check]:
    import torch

    from fairlead.run import machine

    where = machine.device()
    name = torch.cuda.get_device_name() if where.startswith("cuda") else f"{torch.get_num_threads()} threads"
    yield Check("device", True, f"{where} ({name}), number format {machine.dtype(where)}")


def _torchvision() -> Iterator[Check]:
    if find_spec("torchvision") is None:
        yield Check("torchvision", True, "absent; nothing here needs it")
        return
    try:
        import torchvision  # type: ignore[import-not-found, import-untyped, unused-ignore]

        yield Check("torchvision", True, str(torchvision.__version__))
    except Exception as error:
        cure = "pip uninstall torchvision, or install the build for your torch: a mismatched one breaks transformers"
        yield Check("torchvision", False, str(error).splitlines()[0], cure)


def _embedded() -> Iterator[Check]:
    from fairlead.run import models

    for name in registry.table("models"):
        about = models.describe(name)
        yield Check(
            f"model {name}",
            True,
            ", ".join(filter(None, [about["family"], f"{about['megabytes']:.1f} MB", about.get("able")])),
        )


def _plugins() -> Iterator[Check]:
    def importable(kind: str, name: str) -> Check:
        try:
            registry.resolve(kind, name)
        except Exception as error:
            return Check(
                f"{registry.singular(kind)} {name}", False, str(error), "update or uninstall the package it comes from"
            )
        return Check(f"{registry.singular(kind)} {name}", True, registry.table(kind)[name])

    for kind, builtin in registry.BUILTIN.items():
        for name in registry.table(kind):
            if name not in builtin:
                yield importable(kind, name)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(".").free / 1e9
    yield Check(
        "disk",
        free > 0.2,
        f"{free:.1f} GB free here",
        "" if free > 0.2 else "free some space: runs keep their pictures",
    )


__all__ = ["Check", "checks"]
