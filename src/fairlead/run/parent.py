"""The picture that a run starts from, as data in its Spec, and the run's options where they follow from it.

"More like this" starts at the noise of a picture of another run, "different from this" repels it, and another prompt
keeps its noise. Each is an ordinary run. Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairlead.core.check import one_of, whole_number
from fairlead.core.errors import FairleadError
from fairlead.core.key import Key

LIKE, UNLIKE = "like", "unlike"
VERBS = (LIKE, UNLIKE)
HEX = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Parent:
    """One picture of another run."""

    verb: str
    """`like` or `unlike`"""
    folder: str
    """Of the other run: a path until the run starts, then only its name."""
    run: str
    """The id of the other run's Spec."""
    candidate: int
    picture: str
    """Digest of the picture."""
    key: str
    """The picture's key in hexadecimal digits: the randomness of its sampling."""

    @property
    def first_key(self) -> Key:
        """The key of candidate 0 of the new run."""
        return Key(bytes.fromhex(self.key))

    @property
    def name(self) -> str:
        """The name of the other run's folder."""
        return Path(self.folder).name

    def words(self) -> str:
        """What the new run is."""
        start = "different from" if self.verb == UNLIKE else "from the noise of"
        return f"{start} candidate {self.candidate} of {self.name}"

    def as_dict(self) -> dict[str, Any]:
        """For a record: the folder's name, and no path of this machine."""
        return {**asdict(self), "folder": self.name}

    @staticmethod
    def read(data: Any) -> Parent | None:
        """Inverse of `as_dict`; raises TypeError, ValueError or FairleadError where it cannot be one."""
        if data is None:
            return None
        found = Parent(**data)
        one_of("parent.verb", found.verb, VERBS)
        whole_number("parent.candidate", found.candidate, -1)
        for digest in (found.run, found.picture, found.key):
            if not HEX.fullmatch(digest):
                raise ValueError(f"{digest!r:.60} is no digest")
        if found.folder != found.name:
            raise ValueError(f"{found.folder!r:.60} is a path")
        return found


def locate(text: Any, verb: str) -> tuple[Path, int | str]:
    """`RUN:CANDIDATE` -> the folder and the candidate, which may also be the word `best`."""
    folder, colon, word = str(text).rpartition(":")
    if not colon or not folder or not re.fullmatch(r"\d+|best", word):
        raise FairleadError(f"{verb} is {text!r:.80}: must be RUN:CANDIDATE, for example runs/dog:5 or runs/dog:best.")
    return Path(folder), word if word == "best" else int(word)
