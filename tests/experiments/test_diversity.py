"""What the diversity experiment says about rows whose answer is known, and that its arms can be built."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

import by_path
from fairlead.run import registry


@pytest.fixture(scope="module")
def run() -> Any:
    return by_path.experiment("diversity.run")


def rows() -> list[dict[str, Any]]:
    out = []
    arms = [
        ("base", "", 2.0, 0.8),
        ("repulsion", "q=0.1", 2.5, 0.796),
        ("repulsion", "q=1", 4.0, 0.4),
        ("CADS", "s=1", 2.4, 0.7),
    ]
    for family, setting, vendi, judge in arms:
        for i in range(6):
            values = {m: str(vendi * (1 + 0.1 * i)) for m in ("vendi_clip", "vendi_pixels", "pairwise_clip")}
            out.append(
                {
                    "family": family,
                    "setting": setting,
                    "prompt": f"p{i}",
                    "pools": "1",
                    **values,
                    "detector": str(judge),
                }
            )
    return out


def test_changes_are_paired_and_fronts_compare(run: Any) -> None:
    entries = run.summary(rows(), ["detector"])
    gentle = next(e for e in entries if e["setting"] == "q=0.1")
    assert gentle["vendi_clip_change"] == pytest.approx((25.0, 25.0, 25.0)), "the same for every prompt, so no interval"
    assert gentle["vendi_clip"][1] < gentle["vendi_clip"][0] < gentle["vendi_clip"][2]
    told = "\n".join(run.fronts(entries, "detector", "vendi_clip"))
    assert "| repulsion | q=0.1 | +25.0 %" in told
    assert "| CADS | none |" in told
    assert "at least as good in both: 1 of 1" in told
    assert "vendi_clip" in run.markdown(entries, ["detector"], "m")
    assert len(list(ElementTree.fromstring(run.svg(entries, "vendi_clip", "detector")))) > 8


@pytest.mark.parametrize("guided", [True, False])
def test_arms_can_be_built_and_have_names_of_their_own(run: Any, guided: bool) -> None:
    arms = run.arms("all", guided)
    assert len({a.name for a in arms}) == len(arms)
    for arm in arms:
        for kind, parts in (("interventions", arm.interventions), ("steerings", arm.steering)):
            for part in parts:
                registry.build(kind, part)
