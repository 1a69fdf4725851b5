"""What a request may name: an allowlist over the settings of a run. Nothing that it names is outside this process.

A formula can open files, execute code and call addresses. So the text of a request is checked before it is read, and
every part of the run is checked after it was read. What needs a file or an address is an alias of the operator.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.app.serve.errors import Refused, invalid
from fairlead.core.errors import FairleadError, unknown
from fairlead.run import registry
from fairlead.run.spec import Outside, Part, Spec, parse_reward, reward_parts

FORMULA = 1000
"""Characters of a formula."""
PARTS = 8
"""Names in each list of a request."""
REWARDS = ("aesthetic", "brightness", "clip_score", "detector", "jpeg_size")
"""Rewards that need neither a download nor a server; the operator adds others with --reward."""
NEVER = ("file", "http", "human", "judge", "pairwise_judge")
"""Rewards that execute a file, ask a server or ask a person: only inside an alias."""
MODEL_SETTINGS = ("width", "height", "guidance_scale", "true_cfg_scale", "negative_prompt")
FORBIDDEN = {
    *("base_url", "bank", "cache", "cap", "checkpoint", "config", "device", "digest", "dtype", "features", "head"),
    *("lora", "model", "preset", "processor", "question", "reference", "revision", "run", "sibling", "source"),
    *("stats", "swap", "tokenizer", "url"),
}
"""Settings that name a file, a folder, an address or another model."""
WORD = re.compile(r"[A-Za-z0-9_.]{1,32}")
LIKENESS = ("clip", "pixels")


@dataclass(frozen=True)
class Allowed:
    """What the operator of a server permits."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    """Name -> the formula that it stands for."""
    rewards: Collection[str] = REWARDS
    models: Collection[str] = ()
    """Served models, which drafts may name."""

    def formula(self, text: Any, param: str) -> str:
        """A formula of a request with its aliases replaced."""
        if not isinstance(text, str) or not text.strip():
            raise invalid(param, f"{param} is {text!r:.60}: must be a formula such as 'clip_score'.")
        if len(text) > FORMULA:
            raise invalid(param, f"{param} has {len(text)} characters: must be at most {FORMULA}.")
        if text.strip() in self.aliases:
            return self.aliases[text.strip()]
        try:
            tree = parse_reward(self._bare(text), closed=True)
        except FairleadError as error:
            raise _refused(error, param) from None
        for part in reward_parts(tree):
            self._check_reward(part, param)
        return self._replaced(text)

    def _bare(self, text: str) -> str:
        """The formula with a harmless reward in place of each alias."""
        return self._replaced(text, bare=True)

    def _replaced(self, text: str, bare: bool = False) -> str:
        for name, formula in self.aliases.items():
            meaning = "brightness" if bare else f"({formula})"
            meaning = meaning.replace("\\", r"\\")
            text = re.sub(rf"(?<![\w.'\"]){re.escape(name)}(?![\w.'\"(=])", meaning, text)
        return text

    def _check_reward(self, part: Part, param: str) -> None:
        if part.name in NEVER:
            raise not_allowed(param, f"The reward {part.name!r} may not be named in a request. Ask for an alias.")
        if part.name not in self.rewards:
            raise not_allowed(
                param, str(unknown("reward", part.name, {*self.rewards, *self.aliases}, of="this server"))
            )
        self._check_settings(part, param)

    def _check_settings(self, part: Part, param: str) -> None:
        for name, value in part.settings.items():
            if name in FORBIDDEN:
                raise not_allowed(param, f"The setting {part.name}.{name} may not be set in a request.")
            if not _is_plain(value):
                message = f"{part.name}.{name} is {value!r:.60}: must be a number, true, false or a simple word."
                raise not_allowed(param, message)

    def check_settings(self, settings: Any, model: str) -> None:
        """The `settings` of a request, before anything reads them."""
        if not isinstance(settings, Mapping) or not all(isinstance(own, Mapping) for own in settings.values()):
            raise invalid(
                "fairlead.settings", f'settings are {settings!r:.60}: must be like {{"best_of": {{"n": 8}}}}.'
            )
        for owner, own in settings.items():
            if owner in ("model", model):
                for name in own:
                    if name not in MODEL_SETTINGS:
                        message = f"The setting {owner}.{name!s:.40} may not be set in a request."
                        raise not_allowed("fairlead.settings", message)
                _check_negative(own.get("negative_prompt"))
                own = {name: value for name, value in own.items() if name != "negative_prompt"}
            self._check_settings(Part(str(owner), own), "fairlead.settings")

    def check_draft(self, draft: Any) -> None:
        """The words of a draft: numbers, its own words, and models that are served."""
        known = {"auto", "even", "peek", "from", *self.models, *registry.table("models")}
        text = str(draft)
        if isinstance(draft, bool) or not isinstance(draft, int | str) or len(text) > 200:
            raise invalid("fairlead.draft", f"draft is {draft!r:.60}: must be a number or a text like 'peek(8)'.")
        for word in re.findall(r"[^\s()>@:,=\d][^\s()>@:,=]*", text):
            if word not in known:
                raise not_allowed("fairlead.draft", str(unknown("draft", word, known, of="this server")))

    def check_spec(self, spec: Spec) -> None:
        """Every part of a run that a request asks for, its rewards excepted: they were checked with their text."""
        parts = {"space": (spec.space,), "search": (spec.search,), "steer": spec.steering}
        for param, some in {**parts, "intervene": spec.interventions}.items():
            for part in some:
                self._check_settings(part, f"fairlead.{param}")


def _check_negative(value: Any) -> None:
    if value is not None and (not isinstance(value, str) or len(value) > 2000):
        raise invalid(
            "negative_prompt", f"negative_prompt is {value!r:.60}: must be a text of at most 2000 characters."
        )


def _is_plain(value: Any) -> bool:
    """A number, a truth value, a simple word, or a short list of these."""
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(_is_plain(one) and not isinstance(one, list | tuple) for one in value)
    if isinstance(value, str):
        return WORD.fullmatch(value) is not None and ".." not in value
    return value is None or isinstance(value, int | float)


def not_allowed(param: str, message: str) -> Refused:
    """The refusal of something that exists and that a request may not use."""
    return invalid(param, message, "not_allowed")


def _refused(error: FairleadError, param: str) -> Refused:
    return invalid(param, str(error), "not_allowed" if isinstance(error, Outside) else "invalid_value")
