"""Where the axes meet. Called, it is `fairlead.api.run`: importing a package puts it in place of a function of its name."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from fairlead.api import run

        return run(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
