"""Where the axes meet: the package that builds and runs what a Spec names.

The package can be called, because importing it hides the function `fairlead.run`: calling it is calling
`fairlead.api.run`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from fairlead.api import run

        return run(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
