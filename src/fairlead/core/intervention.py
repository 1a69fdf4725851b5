"""Edits of tokens between transformer blocks, installed for one call and removed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from fairlead.core.errors import FairleadError
from fairlead.core.model import Model, Rows, Site, Tokens


class Intervention(Protocol):
    """Edits tokens between transformer blocks. Pure in (settings, rows, tokens); knows nothing of search or steering."""

    @property
    def couples(self) -> bool:
        """True if rows of one group influence each other."""
        ...

    def wants(self, site: Site, rows: Rows) -> bool:
        """Cheap: by block, step and noise level. A site nobody wants is not touched."""
        ...

    def __call__(self, site: Site, rows: Rows, tokens: Tokens) -> Tokens:
        """Same shapes and dtypes out. May mix rows only within equal (group, replica, conditional)."""
        ...


@contextmanager
def installed(model: Model, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Every intervention at every site, in order; nothing is left behind, also after an exception."""
    if interventions and not model.sites:
        raise FairleadError(
            f"{type(model).__name__} has no joint-attention site, so an intervention has nothing to edit: "
            "use a diffusion transformer such as pocket, SD3 or FLUX."
        )
    with ExitStack() as stack:
        for site in model.sites if interventions else ():

            def edit(rows: Rows, tokens: Tokens, site: Site = site) -> Tokens:
                for intervention in interventions:
                    if intervention.wants(site, rows):
                        tokens = _checked(intervention, intervention(site, rows, tokens), tokens, site)
                return tokens

            stack.callback(model.edit(site, edit))
        yield


def _checked(who: Intervention, new: Tokens, old: Tokens, site: Site) -> Tokens:
    for name in ("image", "text"):
        a, b = getattr(new, name), getattr(old, name)
        if a.shape != b.shape or a.dtype != b.dtype:
            raise TypeError(
                f"{type(who).__name__} returned {name} tokens {tuple(a.shape)} {a.dtype} at {site.name}, "
                f"expected {tuple(b.shape)} {b.dtype}"
            )
    return new
