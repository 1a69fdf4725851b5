"""A function of your own as a reward. What it reads is declared by its parameters, or found by trying once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.core import picture_forms
from fairlead.core.check import one_of
from fairlead.core.errors import RewardError
from fairlead.core.picture_forms import Form
from fairlead.core.reward import DetailedReward

SIDE = 64
"""Pixels along the edge of the pictures on which a function is tried."""
PROMPTS = ("a photo of a dog", "a photo of a cat")
"""Prompts with which a function is tried."""


class Function(DetailedReward):
    """A function of pictures, with or without prompts, as a reward.

    Pictures are a tensor [B, 3, H, W] in [0, 1], a list of PIL pictures, or an array [B, H, W, 3] in [0, 1]. A function
    whose first parameter is called `image`, `img`, `picture` or `photo` may read one picture at a time. The answer is
    a number per picture (a list, an array or a tensor), or a dict of such terms: the reward is the term `total`, or
    the sum of all terms.

    An annotation of the first parameter, or `takes`, declares what is read. Otherwise the function is called once with
    two small pictures: tensors are tried first, then PIL pictures, then arrays. What fits is used for every batch.
    Where nothing fits these pictures, the first batch decides. A function of tensors is differentiable if a gradient
    reaches these pictures.

    Settings:
        differentiable (True, False or None, default None): whether a gradient flows; None is to find out by trying.
        takes ('tensor', 'pil', 'numpy' or None, default None): what the function reads; None is to find out.
    """

    def __init__(
        self, function: Callable[..., Any], differentiable: bool | None = None, *, takes: str | None = None
    ) -> None:
        if isinstance(function, type):
            name = function.__name__
            raise RewardError(f"Reward {name!r} is a class: pass an object of it, such as {name}().")
        if isinstance(function, str):
            raise RewardError(
                f"{function!r} is text inside a formula of objects: write the whole formula as one text, or pass the "
                "reward's class, such as fairlead.ClipScore()."
            )
        if not callable(function):
            raise RewardError(
                f"Reward {function!r} is not callable: pass a name, a Reward, or a function of (images, prompts)."
            )
        one_of("Function.takes", takes, tuple(picture_forms.KINDS), optional=True)
        self.unit = getattr(function, "unit", "")
        self.name = getattr(function, "__name__", type(function).__name__)
        self._last: dict[str, Tensor] = {}
        forms = picture_forms.declared(function, "tensor" if differentiable else takes)
        self._caller = _Caller(function, self.name, forms)
        if differentiable is None or len(forms) > 1:
            found = self._caller.try_small()
            differentiable = found if differentiable is None else differentiable
        self.differentiable = differentiable

    @property
    def details(self) -> Mapping[str, Tensor]:
        """The terms that the function returned for the last pictures; none if it returned a number for each."""
        return self._last

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function answers, as a tensor [B]."""
        columns = self._caller(images, prompts)
        self._last = {key: column.detach().float() for key, column in columns.items() if key}
        return picture_forms.total(columns)


class _WrongAnswer(ValueError):
    """The function ran, and its answer is not one number or dict per picture."""


@dataclass(frozen=True)
class _Found:
    """What a trial found out about a function."""

    form: Form
    terms: list[str]
    differentiable: bool


class _Caller:
    """Calls a function in one form, and insists on one kind of answer. The copies of a reward share it."""

    def __init__(self, function: Callable[..., Any], name: str, forms: list[Form]) -> None:
        self._function = function
        self._name = name
        self._forms = forms
        self._form = forms[0] if len(forms) == 1 else None
        self._terms: list[str] | None = None

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        if self._form is None:
            self._form = self._find(images.detach(), prompts)
        answer = self._form.call(self._function, images, prompts)
        try:
            columns = picture_forms.terms(answer, len(images))
        except ValueError as error:
            raise self._wrong_answer(error, len(images)) from None
        if self._terms is None:
            self._terms = list(columns)
        if list(columns) != self._terms:
            before = ", ".join(filter(None, self._terms)) or "a number per picture"
            now = ", ".join(filter(None, columns)) or "a number per picture"
            raise RewardError(f"Reward {self._name!r} returned {now}, and {before} before: return the same every time.")
        return columns

    def try_small(self) -> bool:
        """Find the form on two small pictures; True if a gradient of the reward reaches them."""
        ramp = torch.linspace(0.1, 0.9, 3 * SIDE * SIDE).view(3, SIDE, SIDE)
        images = torch.stack([ramp, ramp.flip(0, 2).sqrt()])
        found = self._found(images, PROMPTS)
        if isinstance(found, list):
            return False
        self._form = found.form
        self._terms = found.terms
        return found.differentiable

    def _find(self, images: Tensor, prompts: Sequence[str]) -> Form:
        """The form that fits a real batch, for a function that rejected the small pictures."""
        found = self._found(images, prompts)
        if not isinstance(found, list):
            return found.form
        texts = [f"{type(failure).__name__}: {failure}" for failure in found]
        if len(set(texts)) == 1 and not isinstance(found[0], _WrongAnswer):
            raise found[0]
        answers = [failure for failure in found if isinstance(failure, _WrongAnswer)]
        if answers:
            raise self._wrong_answer(answers[0], len(images))
        tried = "; ".join(f"{form} ({text[:120]})" for form, text in zip(self._forms, texts, strict=True))
        raise RewardError(
            f"Reward {self._name!r} accepts none of the forms of pictures that were tried: {tried}. Fix the "
            "function, or annotate its first parameter with what it reads."
        )

    def _found(self, images: Tensor, prompts: Sequence[str]) -> _Found | list[BaseException]:
        """The form that fits, or why none does. Two that give different numbers for a picture are refused."""
        fitting: dict[Form, dict[str, Tensor]] = {}
        failures: list[BaseException] = []
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            for form in self._forms:
                watched = images.clone().requires_grad_()
                columns = self._answer(form, watched, prompts) if form.kind == "tensor" else None
                if isinstance(columns, dict):
                    return _Found(form, list(columns), _gradient_reaches(picture_forms.total(columns), watched))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            for form in self._forms:
                answer = self._answer(form, images.clone(), prompts)
                if isinstance(answer, dict):
                    fitting[form] = answer
                else:
                    failures.append(answer)
        if not fitting:
            return failures
        chosen = next(iter(fitting))
        self._check_others(chosen, fitting)
        return _Found(chosen, list(fitting[chosen]), False)

    def _check_others(self, chosen: Form, fitting: Mapping[Form, Mapping[str, Tensor]]) -> None:
        value = picture_forms.total(fitting[chosen]).float().cpu()
        for other, columns in fitting.items():
            same = picture_forms.total(columns).float().cpu()
            if other.each == chosen.each and not torch.allclose(value, same, rtol=0.02, atol=0.02, equal_nan=True):
                raise RewardError(
                    f"Reward {self._name!r} accepts {chosen} and {other}, with different numbers for the same "
                    "pictures. Say what it reads: annotate its first parameter with torch.Tensor, PIL.Image.Image or "
                    "numpy.ndarray, or write fairlead.Function(..., takes='pil')."
                )

    def _answer(self, form: Form, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor] | BaseException:
        """The terms in a form, or why there are none."""
        try:
            answer = form.call(self._function, images, prompts)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # a file that exits is told like one that raises
            return error
        try:
            return picture_forms.terms(answer, len(images))
        except ValueError as error:
            return _WrongAnswer(*error.args)

    def _wrong_answer(self, error: ValueError, count: int) -> RewardError:
        return RewardError(
            f"Reward {self._name!r} returned {error} for {count} images: return {count} numbers, one per image, higher "
            "is better, or a dict of such terms."
        )


def _gradient_reaches(total: Tensor, images: Tensor) -> bool:
    """True if the total depends on the pictures through a finite gradient that is not zero."""
    if not total.requires_grad:
        return False
    try:
        (gradient,) = torch.autograd.grad(total.sum(), images, allow_unused=True)
    except RuntimeError:
        return False
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.abs().sum() > 0)
