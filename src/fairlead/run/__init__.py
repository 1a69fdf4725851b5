"""Where the axes meet. The package shares its name with `fairlead.run(prompt, ...)`, so calling it runs that."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    def __call__(self, *given: Any, **words: Any) -> Any:
        from fairlead.api import run

        return run(*given, **words)


sys.modules[__name__].__class__ = _Run
