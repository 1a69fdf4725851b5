"""Which weights a run was made with: recorded when it starts, compared before it is resumed or replayed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from fairlead.core.errors import FairleadError
from fairlead.run import hub, models
from fairlead.run.spec import Spec

MODEL = "model weights"
"""Its name among the versions of a record."""
WHOLE = 64 << 20
"""Files up to this many bytes are read whole; of larger ones the first and the last `PART` bytes are."""
PART = 4 << 20
WEIGHTS_OF_0_1 = {"pocket": "023f8a1005d7", "pocket-turbo": "8e2ee66c28c3", "pocket-unet": "0a5b01444878"}
"""The embedded models of release 0.1, whose records hold no fingerprint."""


def of(spec: Spec) -> dict[str, str]:
    """`{"model weights": digest}`; empty for a live pipeline and a closed form, which have no files."""
    name = spec.model.name
    if name == models.LIVE:
        return {}
    file, folder = hub.checkpoint(name), None
    if file is None:
        folder = models.folder(name)
    if file is not None:
        return {MODEL: digest([file], file.parent)}
    if folder is not None:
        return {MODEL: digest(sorted(folder.rglob("*.safetensors")), folder)}
    if models.is_closed_form(name):
        return {}
    index = hub.fetch(name, "model_index.json", spec.model.settings.get("revision"))
    return {} if index is None else {MODEL: f"commit {index.parent.name[:12]}"}


def digest(files: list[Path], folder: Path) -> str:
    """Twelve hexadecimal digits over names, sizes and contents."""
    found = blake2b(digest_size=6)
    for path in files:
        facts = path.stat()
        found.update(f"{path.relative_to(folder).as_posix()}:{facts.st_size};".encode())
        found.update(_contents(path, facts.st_size, facts.st_mtime_ns))
    return found.hexdigest()


@lru_cache(maxsize=256)
def _contents(path: Path, size: int, changed: int) -> bytes:
    """The digest of a file of this size, changed at this time: a comparison starts many runs on the same weights."""
    found = blake2b()
    with path.open("rb") as stream:
        if size <= WHOLE:
            found.update(stream.read())
        else:
            found.update(stream.read(PART))
            stream.seek(-PART, 2)
            found.update(stream.read())
    return found.digest()


def check(spec: Spec, versions: Mapping[str, str], purpose: str) -> None:
    """Refuse to go on with other weights than the record's; `purpose` says what that would do.

    Records made before fingerprints were kept are taken to be made with the weights of their release.
    """
    recorded = versions.get(MODEL) or WEIGHTS_OF_0_1.get(spec.model.name)
    here = of(spec).get(MODEL)
    if recorded is None or here is None or recorded == here:
        return
    made_by = versions.get("fairlead", "an earlier version")
    raise FairleadError(
        f"The weights of {spec.model.name!r} are not those of this record ({recorded} then, {here} now), so {purpose}. "
        f"Use the weights that the record was made with (by fairlead {made_by}), or start a new run. "
        "Reading and reporting it works as before."
    )
