"""Where an adapter lets tokens be edited.

Compiled code keeps what it traced and misses hooks that are installed later; edits work there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fairlead.core.errors import FairleadError
from fairlead.core.intervention import Editing
from fairlead.core.model import Edit, Rows, Site, Tokens


class Compiled:
    """A block's forward twice: compiled, and plain for the calls in which something inside the block is edited."""

    def __init__(self, plain: Callable[..., Any], fast: Callable[..., Any]) -> None:
        self._plain = plain
        self._fast = fast
        self.inner: list[tuple[Any, Callable[..., Any], Callable[[], bool]]] = []
        """(module, hook, whether it acts in this call)"""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output."""
        wanted = [(module, hook) for module, hook, wants in self.inner if wants()]
        if not wanted:
            return self._fast(*args, **kwargs)
        handles = [module.register_forward_hook(hook) for module, hook in wanted]
        try:
            return self._plain(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()


def attend(block: Any, attention: Any, hook: Callable[..., Any], wants: Callable[[], bool]) -> Callable[[], None]:
    """Hook a module inside a block; returns the removal. A compiled block never sees the hook, only its plain twin."""
    forward = vars(block).get("forward")
    if isinstance(forward, Compiled):
        entry = (attention, hook, wants)
        forward.inner.append(entry)
        return lambda: forward.inner.remove(entry)
    removal: Callable[[], None] = attention.register_forward_hook(hook).remove
    return removal


def plain(net: Any) -> Callable[[], None]:
    """Run modules that their owner compiled as plain modules; returns a function that undoes it.

    Covers `torch.compile(net)`, `net.compile()` and `compile_repeated_blocks()`: they trace hooks once and would
    miss those installed later.
    """
    found = [(m, m._compiled_call_impl) for m in net.modules() if getattr(m, "_compiled_call_impl", None) is not None]
    for module, _ in found:
        module._compiled_call_impl = None
    wrapped = vars(net).get("forward") if hasattr(net, "_orig_mod") else None
    if wrapped is not None:
        net.forward = net._orig_mod.__call__

    def undo() -> None:
        for module, call in found:
            module._compiled_call_impl = call
        if wrapped is not None:
            net.forward = wrapped

    return undo


class Sites:
    """The part of an adapter that edits use. A family says what its blocks are; the network call sets the rows."""

    net: Any
    _rows: Rows | None = None
    """Rows of the network call that is running"""
    _mask: Tensor | None = None
    """True for its text tokens that are not padding; None where none is padding"""
    _edits = 0
    _prompt_edits: tuple[Edit, ...] = ()
    """Edits of the prompt"""

    @property
    def sites(self) -> Sequence[Site]:
        """One per block that returns text changed by the image; empty for cross-attention networks."""
        kinds: tuple[Literal["joint", "single"], ...] = ("joint", "single")
        every = [(kind, i) for kind in kinds for i in range(len(self.blocks(kind)))]
        return [Site(f"{kind}_{i}", kind, i, depth=(j + 0.5) / len(every)) for j, (kind, i) in enumerate(every)]

    def blocks(self, kind: str) -> Sequence[Any]:
        """The blocks that are sites of one kind."""
        return ()

    def edit(self, site: Site, edit: Edit) -> Callable[[], None]:
        """Edit both streams where block `site` returns them, or its attention does; returns a function that removes
        the edit.
        """
        if site.place == "prompt":
            self._prompt_edits = (*self._prompt_edits, edit)
            return lambda: setattr(self, "_prompt_edits", tuple(e for e in self._prompt_edits if e is not edit))
        blocks = self.blocks(site.kind)
        if site.index >= len(blocks):
            raise FairleadError(f"{type(self).__name__} has no site {site.name!r}: it has {len(self.sites)}.")
        split = self.edit_output if site.place == "block" else self.edit_attention

        def hook(module: Any, args: Any, output: Any) -> Any:
            assert self._rows is not None
            rows = self._rows
            return split(output, lambda tokens: edit(rows, tokens))

        block = blocks[site.index]
        if site.place == "block":
            unhook = block.register_forward_hook(hook).remove
        else:
            unhook = attend(block, self.attention_of(block), hook, lambda: self._acts(edit))
        if self._edits == 0:
            self._recompile = plain(self.net)
        self._edits += 1

        def remove() -> None:
            unhook()
            self._edits -= 1
            if self._edits == 0:
                self._recompile()

        return remove

    def _acts(self, edit: Edit) -> bool:
        """True if the edit does something in the call that is running; a plain function always does."""
        if not isinstance(edit, Editing):
            return True
        assert self._rows is not None
        return edit.wants(self._rows)

    def _edited_prompt(self, x: Tensor, tokens: Tensor, mask: Tensor | None, rows: Rows) -> Tensor:
        """The prompt's tokens [R, T, D] after all edits of the prompt."""
        for edit in self._prompt_edits:
            tokens = edit(rows, Tokens(x.flatten(2).mT, tokens, mask)).text
        return tokens

    def attention_of(self, block: Any) -> Any:
        """The joint attention of a block."""
        return block.attn

    def image_tokens(self) -> int:
        """How many tokens of the picture stand at the end of a sequence of both streams."""
        raise NotImplementedError(f"{type(self).__name__} has no sequence of both streams")

    def edit_output(self, output: Any, edit: Callable[[Tokens], Tokens]) -> Any:
        """A block's output with both streams edited; blocks return (text, image), or one sequence [text, image]."""
        if not isinstance(output, tuple):
            n = self.image_tokens()
            new = edit(self._tokens(output[:, -n:], output[:, :-n]))
            return torch.cat([new.text, new.image], 1)
        text, image = output
        new = edit(self._tokens(image, text))
        return new.text, new.image

    def edit_attention(self, output: Any, edit: Callable[[Tokens], Tokens]) -> Any:
        """An attention's output edited; it returns (image, text), in the other order than blocks do, or one
        sequence.
        """
        if not isinstance(output, tuple | list):
            return self.edit_output(output, edit)
        image, text, *rest = output
        new = edit(self._tokens(image, text))
        return (new.image, new.text, *rest)

    def _tokens(self, image: Tensor, text: Tensor) -> Tokens:
        mask = self._mask
        return Tokens(image, text, mask if mask is not None and mask.shape == text.shape[:2] else None)
