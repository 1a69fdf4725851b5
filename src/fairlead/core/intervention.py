"""Edits of tokens between transformer blocks, installed for one call and removed whatever happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

from fairlead.core.declared import check_declarations, public_names
from fairlead.core.errors import FairleadError
from fairlead.core.model import Model, Place, Rows, Site, Tokens

PROMPT = Site("prompt", "joint", 0, "prompt", depth=0.0)
"""The tokens of the conditional rows before the network reads them."""


class Intervention(ABC):
    """An edit of tokens inside the network. It depends on (settings, rows, tokens) only, not on search or steering.

    A subclass is a frozen dataclass whose fields are its settings. What it does is declared by overriding the
    attributes below. Any other public attribute of the class is rejected when the class is defined.
    """

    switched_off: ClassVar[Mapping[str, Any]] = {}
    """Settings with which it changes nothing, bit for bit; the laws test it. Empty if there are none."""

    @property
    def couples(self) -> bool:
        """True if rows of one group influence each other. The engine then never cuts a group."""
        return False

    @property
    def place(self) -> Place:
        """What is edited: "block" is what a block returns, "attention" what its attention returns, "prompt" the
        prompt's tokens before the network reads them (text only; the image is the latents [R, h w, C]). May be a
        setting.
        """
        return "block"

    @abstractmethod
    def wants(self, site: Site, rows: Rows) -> bool:
        """True if it edits this site in this call. Must be cheap: a site that nobody wants is not touched."""

    @abstractmethod
    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        """Tokens of the same shapes and dtypes. May mix rows only within equal (group, replica, conditional)."""

    def __init_subclass__(cls, **words: Any) -> None:
        """Reject a misspelt capability and a value that no capability has."""
        super().__init_subclass__(**words)
        choices = {"couples": (False, True), "place": get_args(Place)}
        check_declarations(cls, public_names(Intervention), choices, as_settings=("place",))


@contextmanager
def installed(model: Model, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Every intervention at every site, in order; nothing is left behind, also after an exception."""
    if interventions and not model.sites:
        raise FairleadError(
            f"{type(model).__name__} has no joint-attention site, so an intervention has nothing to edit: "
            "use a diffusion transformer such as pocket, SD3 or FLUX."
        )
    with ExitStack() as stack:
        for place in dict.fromkeys(one.place for one in interventions):
            chosen = tuple(one for one in interventions if one.place == place)
            for site in sites_at(model, place):
                stack.callback(model.edit(site, Editing(site, chosen)))
        yield


def sites_at(model: Model, place: Place) -> list[Site]:
    """Where an intervention of that place acts."""
    return [PROMPT] if place == "prompt" else [replace(site, place=place) for site in model.sites]


@dataclass(frozen=True)
class Editing:
    """The edit of one site: every intervention in order."""

    site: Site
    interventions: tuple[Intervention, ...]

    def wants(self, rows: Rows) -> bool:
        """True if anybody acts in this call; adapters may skip the edit, or leave compiled code alone, otherwise."""
        return any(one.wants(self.site, rows) for one in self.interventions)

    def __call__(self, rows: Rows, tokens: Tokens) -> Tokens:
        """The tokens after all of them."""
        for one in self.interventions:
            if one.wants(self.site, rows):
                tokens = _checked(one, one(self.site, rows, tokens), tokens, self.site)
        return tokens


def _checked(who: Intervention, new: Tokens, old: Tokens, site: Site) -> Tokens:
    for name in ("image", "text"):
        a = getattr(new, name)
        b = getattr(old, name)
        if a.shape != b.shape or a.dtype != b.dtype:
            raise TypeError(
                f"{type(who).__name__} returned {name} tokens {tuple(a.shape)} {a.dtype} at {site.name}, "
                f"expected {tuple(b.shape)} {b.dtype}"
            )
    return new


def one_prompt_a_group(prompts: Sequence[str], rows: Rows) -> None:
    """Token n means the same thing only under the same prompt."""
    first: dict[int, str] = {}
    for prompt, group in zip(prompts, rows.group.tolist(), strict=True):
        if first.setdefault(group, prompt) != prompt:
            raise FairleadError(
                f"A group holds {first[group]!r} and {prompt!r}: an intervention compares tokens by position, so "
                "put every prompt into a group of its own."
            )
