"""Laws that every registered item keeps. Call the suite of your kind in your own tests.

    from fairlead.testing import reward_laws

    def test_my_reward():
        reward_laws(MyReward())

Each function raises AssertionError with one sentence that says which law is broken and by how much. They import only
what fairlead imports, so they run without a test framework.
"""

from fairlead.testing.interventions import intervention_laws as intervention_laws
from fairlead.testing.models import model_laws as model_laws
from fairlead.testing.registered import lacking_settings as lacking_settings
from fairlead.testing.registered import registered_laws as registered_laws
from fairlead.testing.rewards import reward_laws as reward_laws
from fairlead.testing.runs import executor_laws as executor_laws
from fairlead.testing.runs import resume_laws as resume_laws
from fairlead.testing.runs import store_laws as store_laws
from fairlead.testing.samplers import sampler_laws as sampler_laws
from fairlead.testing.searches import search_laws as search_laws
from fairlead.testing.spaces import space_laws as space_laws
from fairlead.testing.steerings import steering_laws as steering_laws

__all__ = [
    "executor_laws",
    "intervention_laws",
    "lacking_settings",
    "model_laws",
    "registered_laws",
    "resume_laws",
    "reward_laws",
    "sampler_laws",
    "search_laws",
    "space_laws",
    "steering_laws",
    "store_laws",
]
