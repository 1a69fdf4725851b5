"""Functions of pictures in any form as rewards: what they read is declared or tried once, and then stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fairlead.core.errors import RewardError
from fairlead.core.function import Function
from fairlead.testing import reward_laws
from fairlead.testing.rewards import pictures

IMAGES = (pictures(4) * 255).round() / 255
WORDS = ["a", "bb", "ccc", "dddd"]
RED = IMAGES[:, 0].mean((1, 2))


def tensors(images: Any, prompts: Any) -> Any:
    return images[:, 0].mean((1, 2))


def tensors_alone(images: Any) -> Any:
    return images[:, 0].mean((1, 2))


def one_tensor(image: Tensor) -> Any:
    return image[0].mean()


def pil(images: Any, prompts: Any) -> Any:
    return [np.asarray(one.convert("RGB"))[..., 0].mean() / 255 for one in images]


def pil_alone(images: Any) -> Any:
    return np.array([np.asarray(one.getchannel(0)).mean() / 255 for one in images])


def one_pil(image: Image.Image, prompt: str) -> float:
    return float(np.asarray(image)[..., 0].mean()) / 255


def one_undeclared(picture: Any) -> Any:
    return np.asarray(picture.getchannel("R")).mean() / 255


def listed(pictures: list[Image.Image]) -> Any:
    return tuple(np.asarray(one)[..., 0].mean() / 255 for one in pictures)


def arrays(images: np.ndarray) -> Any:
    return images[..., 0].mean(axis=(1, 2))


def arrays_undeclared(images: Any) -> Any:
    return images.astype(np.float64)[..., 0].mean(axis=(1, 2)).tolist()


def keyword(images: Any, *, prompts: Sequence[str], scale: float = 1.0) -> Any:
    assert isinstance(prompts, list)
    return scale * images[:, 0].mean((1, 2))


def with_an_option(images: Any, scale: float = 1.0) -> Any:
    return scale * images[:, 0].mean((1, 2))


@pytest.mark.parametrize(
    "function",
    [
        tensors,
        tensors_alone,
        one_tensor,
        pil,
        pil_alone,
        one_pil,
        one_undeclared,
        listed,
        arrays,
        arrays_undeclared,
        keyword,
        with_an_option,
    ],
)
def test_every_form_gives_the_same_numbers(function: Callable[..., Any]) -> None:
    reward = Function(function)
    total, terms = reward(IMAGES, WORDS)
    torch.testing.assert_close(total, RED, rtol=1e-5, atol=1e-5)
    assert list(terms) == [function.__name__]
    reward_laws(reward, IMAGES)


@pytest.mark.parametrize("function", [pil, one_pil, tensors, keyword])
def test_prompts_belong_to_their_pictures(function: Callable[..., Any]) -> None:
    seen: list[Any] = []

    def one(image: Image.Image, prompt: str) -> float:
        seen.append(prompt)
        return float(len(prompt))

    assert Function(one)(IMAGES, WORDS)[0].tolist() == [1, 2, 3, 4]
    assert seen[-4:] == WORDS


def test_a_gradient_is_found_by_trying() -> None:
    def rounded(images: Tensor) -> Tensor:
        return (images * 255).round().mean((1, 2, 3))

    def detached(images: Tensor) -> Tensor:
        return images.detach().mean((1, 2, 3))

    def off_torch(images: Tensor) -> Any:
        return images.cpu().numpy().mean(axis=(1, 2, 3))

    assert Function(tensors).differentiable
    assert Function(lambda images: [one.mean() for one in images]).differentiable
    assert Function(lambda images: {"a": images.mean((1, 2, 3)), "b": images[:, 0, 0, 0]}).differentiable
    for function in (rounded, detached, off_torch, pil, arrays):
        assert not Function(function).differentiable
    assert not Function(tensors, differentiable=False).differentiable
    assert (Function(tensors) + 1.0).differentiable


def both(images: Tensor) -> dict[str, Any]:
    return {"red": images[:, 0].mean((1, 2)), "green": images[:, 1].mean((1, 2))}


def with_a_total(images: Tensor) -> dict[str, Any]:
    return {"watched": images[:, 1].mean((1, 2)), "total": images[:, 0].mean((1, 2))}


def one_by_one(image: Image.Image) -> dict[str, float]:
    red, green, _ = np.asarray(image).reshape(-1, 3).mean(0) / 255
    return {"red": float(red), "green": float(green)}


def test_a_dict_gives_terms() -> None:
    green = IMAGES[:, 1].mean((1, 2))
    for function in (both, one_by_one):
        reward = Function(function)
        total, terms = (2 * reward)(IMAGES, WORDS)
        torch.testing.assert_close(total, 2 * (RED + green), rtol=1e-5, atol=1e-5)
        name = function.__name__
        assert list(terms) == [name, f"{name}.red", f"{name}.green"]
        torch.testing.assert_close(terms[f"{name}.green"], green, rtol=1e-5, atol=1e-5)
        back = (2 * reward).from_terms([{k: float(v[i]) for k, v in terms.items()} for i in range(4)])
        torch.testing.assert_close(back, total)
        reward_laws(reward, IMAGES)
    total, terms = Function(with_a_total)(IMAGES, WORDS)
    torch.testing.assert_close(total, RED)
    torch.testing.assert_close(terms["with_a_total.watched"], green)


def test_what_differs_between_batches_is_refused() -> None:
    calls = []

    def fickle(images: Tensor) -> Any:
        calls.append(len(images))
        red = images[:, 0].mean((1, 2))
        return {"red": red} if len(calls) < 3 else red

    reward = Function(fickle)
    reward(IMAGES, WORDS)
    with pytest.raises(RewardError, match="returned a number per picture, and red before"):
        reward.copy()(IMAGES, WORDS)


def test_the_form_of_the_first_trial_stays() -> None:
    """A function that would also accept something else later still gets what it got first."""
    kinds = []

    def any_kind(images: Any) -> Any:
        kinds.append(type(images).__name__)
        return [0.0] * len(images)

    reward = Function(any_kind)
    reward(IMAGES, WORDS)
    reward(IMAGES[:1], WORDS[:1])
    assert set(kinds) == {"Tensor"}


def test_where_two_forms_disagree_the_user_must_choose() -> None:
    def spread(images: Any) -> Any:
        return [float(np.asarray(one).std()) for one in images]

    with pytest.raises(RewardError, match=r"accepts a tensor \[B, 3, H, W\].*and a list of PIL\.Image.*takes='pil'"):
        Function(spread)
    on_bytes = Function(spread, takes="pil")(IMAGES, WORDS)[0]
    torch.testing.assert_close(on_bytes / 255, Function(spread, takes="numpy")(IMAGES, WORDS)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match=r"Function\.takes is 'jpeg': must be 'tensor', 'pil' or 'numpy'"):
        Function(spread, takes="jpeg")


def test_where_nothing_fits_the_sentence_says_what_was_tried() -> None:
    def hopeless(images: Any) -> Any:
        return images.sharpness()

    with pytest.raises(RewardError, match=r"'hopeless' accepts none of .*a tensor \[B, 3, H, W\].*PIL.*an array"):
        Function(hopeless)(IMAGES, WORDS)
    with pytest.raises(RewardError, match="'words' returned a dict whose keys are"):
        Function(_named("words", lambda images: {1: images.mean((1, 2, 3))}))(IMAGES, WORDS)


def _named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def test_the_first_batch_decides_where_the_small_pictures_do_not_fit() -> None:
    """A table of prompts knows only its own; the function's own error is kept where every form meets it."""
    table = {word: float(len(word)) for word in WORDS}
    reward = Function(lambda images, prompts: [table[prompt] for prompt in prompts])
    assert reward(IMAGES, WORDS)[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(KeyError, match="'unknown'"):
        Function(lambda images, prompts: [table[prompt] for prompt in prompts])(IMAGES[:1], ["unknown"])
