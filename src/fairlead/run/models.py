"""What can be known about a model before it is loaded: its place, its defaults, the words it knows. Imports no torch.

A model is a registered name, a folder with a `model_index.json`, a checkpoint file, or a hub name; `python` is a live
pipeline, which only the caller can pass again. A folder may bring `fairlead.json`:
`steps` and `batch` are the run's defaults, `settings` the adapter's, and `"vocabulary": "words"` says that its
tokenizer knows whole words only, so that unknown ones can be named to the user.
"""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, unknown
from fairlead.run import capabilities, hub, inputs, kept, registry, rungs
from fairlead.run.child import spec_of_child
from fairlead.run.compatibility import check_before_loading
from fairlead.run.files import is_folder
from fairlead.run.kept import once
from fairlead.run.options import IN_A_PIPELINE, RunOptions
from fairlead.run.spec import Part, Spec, checked_settings
from fairlead.run.spec import spec_of as make_spec_of

LIVE = "python"
"""The name of a live pipeline in a record."""


def folder(name: str) -> Path | None:
    """The folder a model's name means, None for a hub name, a file or a class. Unknown names are refused."""
    if name == LIVE or hub.checkpoint(name) is not None:
        return None
    entries = registry.table("models")
    if name in entries:
        if _is_class(entries[name]):
            return None
        return Path(registry.resolve("models", name)())
    path = Path(os.path.expanduser(name))
    if is_folder(path):
        if not (path / "model_index.json").is_file():
            raise FairleadError(f"{path} has no model_index.json. Pass a folder saved by a diffusers pipeline.")
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/")):
        return None
    raise unknown("model", name, entries, see="fairlead list models")


def is_closed_form(name: str) -> bool:
    """Whether a name is a model that is computed by a class of its own and has no weights."""
    return name in registry.table("models") and _is_class(registry.table("models")[name])


def _is_class(entry: str) -> bool:
    return entry.partition(":")[2][:1].isupper()


def defaults(name: str, revision: str | None = None) -> dict[str, Any]:
    """`steps`, `batch`, `sampler`, `settings`: the model's own `fairlead.json`, else what its configurations say."""
    where = folder(name)
    path = None if where is None else where / "fairlead.json"
    if path is not None and path.is_file():
        return dict(json.loads(path.read_text()))
    if name in registry.table("models"):
        return {"batch": 16}
    return {} if name == LIVE else _usual(abilities(name, revision))


def defaults_of(options: RunOptions) -> dict[str, Any]:
    """The own defaults of the model that the options name."""
    chosen = options.settings or {}
    settings = checked_settings(chosen)
    revision = settings.get("model", {}).get("revision", options.revision)
    if isinstance(options.model, Part):
        own = defaults(options.model.name, options.model.settings.get("revision", revision))
    else:
        own = defaults(options.model, revision)
    written = options.draft if options.rungs is None else options.rungs
    if siblings := rungs.models_in(written):
        own = own | {"draft_steps": {name: int(defaults(name).get("steps", rungs.USUAL_STEPS)) for name in siblings}}
    return own


def spec_of(options: RunOptions) -> Spec:
    """The options of a run -> a checked Spec, with the model's own defaults where nothing else was chosen."""
    if options.like or options.unlike:
        child: Spec = spec_of_child(options, spec_of, abilities)
        return child
    return make_spec_of(options, defaults_of(options))


def _usual(able: capabilities.Capabilities | None) -> dict[str, Any]:
    """Defaults that follow from what a model can do."""
    if able is None or not able.adapter:
        return {}
    own: dict[str, Any] = {"sampler": able.sampler, "batch": 0}
    family = capabilities.FAMILIES.get(able.pipeline)
    if able.few_step and family is not None:
        own |= {"steps": family.few}
        if able.guidance == "none needed":
            own |= {"settings": {family.guidance: family.off}}
    return own


def _config(name: str, file: str, revision: str | None = None) -> dict[str, Any]:
    """A small JSON file of a folder or a hub name, empty if it has none."""
    where = folder(name)
    path = hub.fetch(name, file, revision) if where is None else where / file
    return dict(json.loads(path.read_text())) if path is not None and path.is_file() else {}


def pipeline(name: str, revision: str | None = None) -> str:
    """The pipeline class in the model's index or its checkpoint; for a hub name the index alone is fetched."""
    if (path := hub.checkpoint(name)) is not None:
        return hub.detect(path)
    index = _config(name, "model_index.json", revision)
    if "_class_name" not in index:
        raise FairleadError(
            f"Model {name!r} has no model_index.json with a pipeline class. Pass a diffusers pipeline; a LoRA goes "
            "with --lora, a denoiser alone with --set model.swap=NAME."
        )
    return str(index["_class_name"])


def adapter(family: str, name: str) -> Any:
    """The adapter class of a pipeline class, or why there is none."""
    if family in registry.table("adapters"):
        return registry.resolve("adapters", family)
    known = ", ".join(name.removesuffix("Pipeline") for name in registry.table("adapters"))
    reason = capabilities.refusal(family) or "no adapter is registered for that class"
    raise FairleadError(f"Model {name!r} is a {family}, which cannot be used: {reason}. Supported families: {known}.")


def abilities(name: str, revision: str | None = None) -> capabilities.Capabilities | None:
    """What the model can do, from its configurations; None for a closed form or a live pipeline."""
    entries = registry.table("models")
    if name == LIVE or (name in entries and _is_class(entries[name])):
        return None
    family = pipeline(name, revision)
    part = capabilities.FAMILIES[family].denoiser if family in capabilities.FAMILIES else "transformer"
    denoiser: dict[str, Any] = {}
    scheduler: dict[str, Any] = {}
    if hub.checkpoint(name) is None:
        denoiser = _config(name, f"{part}/config.json", revision)
        scheduler = _config(name, "scheduler/scheduler_config.json", revision)
    return capabilities.of(family, family in registry.table("adapters"), name, denoiser, scheduler)


def check(spec: Spec) -> None:
    """Refuse what cannot work before anything is loaded, with the reason."""
    able = abilities(spec.model.name, spec.model.settings.get("revision"))
    if able is not None:
        _check_inputs(spec, adapter(able.pipeline, spec.model.name))
    elif inputs.digests(spec.model) and spec.model.name != LIVE:
        raise FairleadError(f"image cannot be used with {spec.model.name!r}: it has no autoencoder to read pictures.")
    check_before_loading(spec, able)


def _check_inputs(spec: Spec, make: Any) -> None:
    """Refuse picture inputs that the family does not take, before its weights are loaded."""
    for name in inputs.SETTINGS:
        if spec.model.settings.get(name) is not None and name not in getattr(make, "inputs", ()):
            raise FairleadError(f"{name} cannot be used with {spec.model.name!r}: {IN_A_PIPELINE[name]}.")


def shared() -> AbstractContextManager[None]:
    """Many runs in one process: inside, `build` loads a model once and returns the same adapter again."""
    return kept.shared("model")


def build(spec: Spec, *, device: str, dtype: str) -> Any:
    """The adapter of the run's model, loaded; only once inside `shared`."""
    key = (spec.model.name, json.dumps(dict(spec.model.settings), sort_keys=True), device, dtype)
    return once("model", key, lambda: _load(spec, device, dtype))


def _load(spec: Spec, device: str, dtype: str) -> Any:
    name = spec.model.name
    settings = dict(spec.model.settings)
    entries = registry.table("models")
    if name == LIVE:
        raise FairleadError(f"The model of this run was a live pipeline ({settings}). Pass it again as model=...")
    if name in entries and _is_class(entries[name]):
        return registry.build("models", spec.model)
    make = adapter(pipeline(name, settings.get("revision")), name)
    quiet()
    wanted = {
        "device": device,
        "dtype": dtype,
        **defaults(name, settings.get("revision")).get("settings", {}),
        **inputs.pictures(settings),
    }
    source = str(hub.checkpoint(name) or folder(name) or name)
    return _made(make, name, wanted, source)


def _family(pipe: Any) -> str:
    """The pipeline class that an adapter stands for: that of the object, or the nearest one it was derived from."""
    names = [one.__name__ for one in type(pipe).__mro__]
    return next((name for name in names if name in registry.table("adapters")), names[0])


def live(pipe: Any) -> tuple[Part, dict[str, Any]]:
    """A live pipeline in the record, enough to read and not to build, and the defaults that follow from it."""
    kind = _family(pipe)
    adapter(kind, kind)
    family = capabilities.FAMILIES.get(kind)
    net = getattr(pipe, family.denoiser if family is not None else "transformer", None)
    config = dict(getattr(net, "config", {}))
    name = str(pipe.config.get("_name_or_path") or config.get("_name_or_path") or "")
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    able = capabilities.of(kind, True, name, config, scheduler)
    shown = {"pipeline": kind, "source": Path(name).name if Path(name).is_absolute() else name}
    return Part(LIVE, {k: v for k, v in shown.items() if v}), _usual(able)


def lend(pipe: Any, settings: Mapping[str, Any]) -> Any:
    """The adapter over a live pipeline; `release()` gives it back as it was found."""
    kind = _family(pipe)
    usual = live(pipe)[1].get("settings", {})
    return _made(adapter(kind, kind), kind, {**usual, **settings}, pipe)


def _made(make: Any, name: str, wanted: dict[str, Any], source: Any) -> Any:
    """make(source, **wanted); settings are the adapter's own and those of loading."""
    own = [p.name for p in registry.parameters(make, 1) if p.kind is not p.VAR_KEYWORD]
    accepted = {*own, *getattr(make, "loading", ()), *getattr(make, "inputs", ())}
    for setting in wanted:
        if setting in IN_A_PIPELINE and setting not in accepted:
            raise FairleadError(f"Setting {setting!r} of {name} cannot be used: {IN_A_PIPELINE[setting]}.")
    registry.known_settings(name, wanted, accepted)
    from fairlead.run import machine

    try:
        return machine.outside_inference_mode(lambda: make(source, **wanted))()
    except TypeError as error:
        raise FairleadError(f"{name} cannot be built from {wanted}: {error}.") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise hub.explained(error, name) from error


def quiet() -> None:
    """Loading bars of local files say nothing and break the live display; downloads keep theirs.

    Nor is it news that torchvision is absent, which nothing here needs.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.utils.import_utils").addFilter(_no_torchvision)


def _no_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage()


def describe(name: str) -> dict[str, Any]:
    """What a list shows: family, size in MB, steps, picture size."""
    where = folder(name)
    if where is None:
        return {"name": name, "family": "closed form", "megabytes": 0.0, "steps": None, "size": ""}
    own = defaults(name)
    settings = own.get("settings", {})
    weights = sum(f.stat().st_size for f in where.rglob("*.safetensors"))
    size = f"{settings['width']}x{settings['height']}" if "width" in settings and "height" in settings else ""
    able = abilities(name)
    family = pipeline(name).removesuffix("Pipeline")
    facts = {} if able is None else {"guidance": able.guidance, "able": able.words(), "capabilities": able.as_dict()}
    return {
        "name": name,
        "family": family,
        "megabytes": weights / 1e6,
        "steps": own.get("steps"),
        "size": size,
        "card": next((str(path) for path in _cards(name, where) if path.is_file()), None),
        **facts,
    }


def _cards(name: str, where: Path) -> list[Path]:
    """Where a model card may be; models that come together may share one beside their folders."""
    beside = [where.parent / "MODEL_CARD.md"] if name in registry.table("models") else []
    return [where / "MODEL_CARD.md", where / "README.md", *beside]


def words(name: str) -> list[str]:
    """The words of a model that reads no others, sorted; none of a model that reads any text."""
    where = folder(name)
    if where is None or defaults(name).get("vocabulary") != "words":
        return []
    known = json.loads((where / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(word for word in known if not re.fullmatch(r"<\w+>", word))


def warnings(spec: Spec) -> list[str]:
    """Sentences the user should read before trusting the picture."""
    where = folder(spec.model.name)
    out: list[str] = []
    if known := words(spec.model.name):
        lost = [w for w in dict.fromkeys(re.findall(r"\w+|[^\w\s]+", spec.prompt.lower())) if w not in known]
        lost = [w for w in lost if not all(unicodedata.category(letter).startswith("P") for letter in w)]
        if lost:
            registered = spec.model.name in registry.table("models")
            listed = (
                f"listed by 'fairlead list models {spec.model.name}'"
                if registered
                else "in its tokenizer/tokenizer.json"
            )
            unknown_words = ", ".join(repr(w) for w in lost)
            out.append(
                f"{spec.model.name} does not know {unknown_words}: the picture cannot show it. Its words are {listed}."
            )
    settings = spec.model.settings
    able = abilities(spec.model.name, settings.get("revision")) if where is not None else None
    if able is not None and able.few_step and spec.steps > 8:
        out.append(f"{spec.model.name} was distilled for 1 to 8 steps and this run takes {spec.steps}. Try --steps 4.")
    if able is not None and not able.few_step and spec.sampler == "consistency":
        out.append(f"consistency jumps to the end at every step, and {spec.model.name} was not distilled for it.")
    out += [
        f"{weight!r} is read literally, as in diffusers: the weight is lost. Write the words alone."
        for weight in re.findall(r"\([^()]*:\s*\d*\.?\d+\s*\)", spec.prompt)
    ]
    steering = [(p.name, registry.build("steerings", p)) for p in spec.steering]
    if spec.group == 1:
        alone = [p.name for p in spec.interventions if registry.build("interventions", p).couples]
        alone += [name for name, method in steering if method.needs_company]
        out += [f"{name} acts between the pictures of a group, and --group is 1: it changes nothing." for name in alone]
    for name, least in ((name, method.least_moves) for name, method in steering):
        few = able is not None and able.few_step
        if least and (few or spec.steps < least):
            why = (
                f"{spec.model.name} was distilled for others"
                if few
                else f"{spec.steps} of at least {least} steps are too few"
            )
            out.append(
                f"{name} uses noise levels of its own, and {why}: expect ruined pictures, or set {name}.solver=sampler."
            )
    return out


def with_dtype(spec: Spec) -> Spec:
    """Number format is part of the answer, so it is part of the Spec from the start."""
    from fairlead.run import machine

    if (
        spec.model.name == LIVE
        or "dtype" in spec.model.settings
        or (folder(spec.model.name) is None and spec.model.name in registry.table("models"))
    ):
        return spec
    return replace(spec, model=spec.model.with_settings({"dtype": machine.dtype(machine.device())}))
