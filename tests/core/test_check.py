"""The shared checks: what they accept, and the whole sentence where they do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fairlead.core.check import is_text, must_be, number_in_range, one_of, whole_number
from fairlead.core.errors import FairleadError


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: whole_number("a.n", 0, 1), "a.n is 0: must be a whole number >= 1."),
        (lambda: whole_number("a.n", 2.0), "a.n is 2.0: must be a whole number."),
        (lambda: whole_number("a.n", True), "a.n is True: must be a whole number."),
        (lambda: whole_number("a.n", None, 1), "a.n is None: must be a whole number >= 1."),
        (lambda: whole_number("a.n", 96, 1, 95), "a.n is 96: must be a whole number in [1, 95]."),
        (lambda: whole_number("a.n", 0, 1, optional=True), "a.n is 0: must be a whole number >= 1, or leave it out."),
        (lambda: number_in_range("a.b", 1, "[0, 1)"), "a.b is 1: must be a number in [0, 1)."),
        (lambda: number_in_range("a.b", 0, "(0, inf)"), "a.b is 0: must be a finite number > 0."),
        (lambda: number_in_range("a.b", -1, "[0, inf)"), "a.b is -1: must be a finite number >= 0."),
        (lambda: number_in_range("a.b", -1, "[0, inf]"), "a.b is -1: must be a number >= 0."),
        (lambda: number_in_range("a.b", math.nan), "a.b is nan: must be a finite number."),
        (lambda: number_in_range("a.b", math.inf, "[0, inf)"), "a.b is inf: must be a finite number >= 0."),
        (lambda: number_in_range("a.b", "8"), "a.b is '8': must be a finite number."),
        (lambda: number_in_range("a.b", 2, "(-inf, 1]"), "a.b is 2: must be a finite number <= 1."),
        (lambda: one_of("a.c", "odd", ("ode", "sde")), "a.c is 'odd': must be 'ode' or 'sde'. Did you mean 'ode'?"),
        (lambda: one_of("a.c", 3, ("ode", "sde", "x")), "a.c is 3: must be 'ode', 'sde' or 'x'."),
    ],
)
def test_a_wrong_value_is_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(FairleadError) as caught:
        call()
    assert str(caught.value) == sentence


def test_the_sentence_for_checks_that_are_used_once() -> None:
    assert must_be("a.n", 3, "even") == "a.n is 3: must be even."
    assert must_be("a.n", 3, "even", optional=True) == "a.n is 3: must be even, or leave it out."


def test_text() -> None:
    assert is_text("grün")
    assert not is_text("half \ud800")
    assert not is_text("a\0b")


def test_right_values_come_back() -> None:
    assert whole_number("a.n", 1, 1, 1) == 1
    assert whole_number("a.n", None, optional=True) is None
    assert number_in_range("a.b", 0, "[0, 1)") == 0
    assert number_in_range("a.b", math.inf, "(0, inf]") == math.inf
    assert number_in_range("a.b", None, optional=True) is None
    assert one_of("a.c", "ode", {"ode": 1}) == "ode"
    assert one_of("a.c", None, ("ode",), optional=True) is None
