"""What to do if a budget covers no picture: steering settings that it does cover."""

from __future__ import annotations

from dataclasses import replace

from fairlead.core.errors import FairleadError
from fairlead.run import dry_run
from fairlead.run.setup import Setup, build_steering
from fairlead.run.spec import Part, Spec, reward_text


def settings_that_fit(setup: Setup) -> str:
    """Options whose first picture the budget covers, as on the command line; empty if none is known.

    Tried are the settings that a steering declares as `cheaper`, in its order, over those that were chosen. Each is
    priced by a dry run, so what is recommended does fit.
    """
    for i, (part, steering) in enumerate(zip(setup.spec.steering, setup.steering.parts, strict=True)):
        for settings in steering.cheaper:
            parts = list(setup.spec.steering)
            parts[i] = Part(part.name, {**part.settings, **settings})
            if _fits(setup, replace(setup.spec, steering=tuple(parts))):
                return f'--steer "{reward_text(parts[i])}"'
    return ""


def _fits(setup: Setup, spec: Spec) -> bool:
    """True if the budget covers the preparation, the plain sample and one group under `spec`."""
    try:
        changed = replace(setup, spec=spec, steering=build_steering(spec))
        once, each = dry_run.costs(changed, steps=spec.draft)
        plain = dry_run.costs(changed, baseline=True)[1] if spec.own_baseline else once * 0
    except FairleadError:  # a setting that does not go with those that were chosen
        return False
    return not (once + plain + each * spec.group).over(spec.limit)
