"""What is known of a model before it is loaded: where it is, its own defaults, the words it can read. Imports no torch.

A model is a registered name, a folder with a `model_index.json`, or a hub name. A folder may bring `fairlead.json`:
`steps` and `batch` are the run's defaults, `settings` the adapter's, and `"vocabulary": "words"` says that its
tokenizer knows whole words only, so that unknown ones can be named to the user.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, unknown
from fairlead.run import registry
from fairlead.run.spec import Spec


def folder(name: str) -> Path | None:
    """The folder a model's name means, None for a hub name or a class. Unknown names are refused."""
    entries = registry.table("models")
    if name in entries:
        if _is_class(entries[name]):
            return None
        return Path(registry.resolve("models", name)())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise FairleadError(f"{path} has no model_index.json: give a folder saved by a diffusers pipeline.")
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/")):
        return None
    raise unknown("model", name, entries)


def _is_class(entry: str) -> bool:
    return entry.partition(":")[2][:1].isupper()


def defaults(name: str) -> dict[str, Any]:
    """`steps`, `batch`, `settings` from the model's own `fairlead.json`; empty if it has none."""
    where = folder(name)
    path = None if where is None else where / "fairlead.json"
    if path is None or not path.is_file():
        return {"batch": 16} if name in registry.table("models") else {}
    return dict(json.loads(path.read_text()))


def pipeline(name: str) -> str:
    """The pipeline class in the model's index; for a hub name the index alone is fetched."""
    where = folder(name)
    if where is None:
        from huggingface_hub import hf_hub_download

        try:
            where = Path(hf_hub_download(name, "model_index.json")).parent
        except Exception as error:
            raise FairleadError(
                f"Model {name!r} could not be fetched ({type(error).__name__}): check the name and the network, "
                "or give a local folder; 'pocket' needs neither."
            ) from error
    return str(json.loads((where / "model_index.json").read_text())["_class_name"])


def build(spec: Spec, *, device: str, dtype: str) -> Any:
    """The adapter of the run's model, loaded."""
    name, settings = spec.model.name, dict(spec.model.settings)
    entries = registry.table("models")
    if name in entries and _is_class(entries[name]):
        return registry.build("models", spec.model)
    family = pipeline(name)
    if family not in registry.table("adapters"):
        raise FairleadError(
            f"Model {name!r} is a {family}, which has no adapter yet: known are {', '.join(registry.table('adapters'))}."
        )
    _quiet()
    own = defaults(name).get("settings", {})
    wanted = {"device": device, "dtype": dtype, **own, **settings}
    return registry.call(registry.resolve("adapters", family), name, wanted, str(folder(name) or name))


def _quiet() -> None:
    """Loading bars of local files say nothing and break the live display; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def describe(name: str) -> dict[str, Any]:
    """What a list shows: family, size in MB, steps, picture size."""
    where = folder(name)
    if where is None:
        return {"name": name, "family": "closed form", "megabytes": 0.0, "steps": None, "size": ""}
    own = defaults(name)
    settings = own.get("settings", {})
    weights = sum(f.stat().st_size for f in where.rglob("*.safetensors"))
    size = f"{settings['width']}x{settings['height']}" if "width" in settings and "height" in settings else ""
    family = pipeline(name).removesuffix("Pipeline")
    return {"name": name, "family": family, "megabytes": weights / 1e6, "steps": own.get("steps"), "size": size}


def warnings(spec: Spec) -> list[str]:
    """Sentences the user should read before trusting the picture."""
    where = folder(spec.model.name)
    out: list[str] = []
    if where is not None and defaults(spec.model.name).get("vocabulary") == "words":
        known = set(json.loads((where / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
        lost = [w for w in dict.fromkeys(re.findall(r"\w+|[^\w\s]+", spec.prompt.lower())) if w not in known]
        if lost:
            words = ", ".join(repr(w) for w in lost)
            out.append(
                f"{spec.model.name} does not know {words}: the picture cannot show it. Its words are in its model card."
            )
    return out
