"""What a pipeline's own call would do and a run does not: sentences to read before trusting the pictures."""

from __future__ import annotations

from typing import Any, ClassVar

from fairlead.core.twins import nearest_to, no_twin


class Warnings:
    """The part of an adapter that knows what is lost."""

    pipe: Any
    family: ClassVar[str]
    negative_prompt: str | None
    _length: int = 0
    """Tokens that the last text encoder reads; 0 where its tokenizer says so."""

    def warnings(self, prompt: str, sampler: str) -> list[str]:
        """Sentences about this pipeline, this prompt and the sampler of the run."""
        kind = type(self.pipe).__name__
        out = [
            self._truncated(name, text)
            for name, text in (("prompt", prompt), ("negative prompt", self.negative_prompt))
        ]
        if getattr(self.pipe, "safety_checker", None) is not None:
            out.append(f"The safety checker of this {kind} is not run: every picture is shown and kept as it is.")
        if getattr(self.pipe, "watermark", None) is not None:
            out.append(f"The watermark of this {kind} is left out: pictures are kept as the decoder made them.")
        out.append(self._stepped(sampler))
        out.append(self.started_late(sampler))
        if self._calls_otherwise():
            out.append(
                f"{kind} has a __call__ of its own, which is not run: pictures are made as {self.family} makes them."
            )
        return [sentence for sentence in out if sentence]

    def _stepped(self, sampler: str) -> str:
        """That the sampler is not the scheduler's twin; empty if it is, or if another one was chosen."""
        name = type(self.pipe.scheduler).__name__
        reason = no_twin(name, self.pipe.scheduler.config)
        if not reason or sampler != nearest_to(name):
            return ""
        return (
            f"{reason}: the sampler {sampler} takes its steps, so pictures differ from the pipeline's own. "
            "docs/schedulers.md lists the samplers and schedulers to choose from."
        )

    def started_late(self, sampler: str) -> str:
        """What a picture input changes about the steps; empty without one."""
        return ""

    def _calls_otherwise(self) -> bool:
        """True if a subclass overrides the call of the diffusers class that this adapter stands for."""
        import diffusers

        known = [one for one in type(self.pipe).__mro__ if getattr(diffusers, one.__name__, None) is one]
        return bool(known) and type(self.pipe).__call__ is not known[0].__call__

    def _truncated(self, name: str, text: str | None) -> str:
        """What no text encoder reads of a text; empty if one of them reads all of it."""
        readers = self._readers()
        if not text or not readers:
            return ""
        lost = min((_lost(tokenizer, limit, text) for tokenizer, limit in readers), key=len)
        limit = max(limit for _, limit in readers)
        return f"The {name} is longer than the {limit} tokens that the model reads: {lost!r} is lost." if lost else ""

    def _readers(self) -> list[tuple[Any, int]]:
        """Every text encoder's tokenizer with the number of tokens it reads."""
        parts = self.pipe.components
        found = []
        for name in sorted(parts):
            encoder = parts.get(name.replace("tokenizer", "text_encoder"))
            if name.startswith("tokenizer") and parts[name] is not None and encoder is not None:
                found.append((parts[name], int(parts[name].model_max_length)))
        if found and self._length:
            found[-1] = (found[-1][0], int(self._length))
        return found


def _lost(tokenizer: Any, limit: int, text: str) -> str:
    """The end of a text that does not fit, special tokens counted."""
    fast = bool(tokenizer.is_fast)
    own = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    room = max(0, limit - len(tokenizer("", verbose=False).input_ids))
    if len(own.input_ids) <= room:
        return ""
    return text[own["offset_mapping"][room][0] :] if fast else str(tokenizer.decode(own.input_ids[room:]))
