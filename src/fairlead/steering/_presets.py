"""What LiDAR was published with (Kim et al. 2026, arXiv 2602.03211, section 4 and appendix), and what is used
otherwise.
"""

from __future__ import annotations

from typing import Any

SD_UNTIL = 0.364
"""Flow time of t = 200 of Stable Diffusion's 1000, the end of the paper's guided range: sigma/alpha = 0.573."""
USUAL: dict[str, Any] = {
    "n": 16,
    "steps": 4,
    "scale": None,
    "tilt": 5000.0,
    "until": SD_UNTIL,
    "standardise": True,
    "per": "clean",
}
PRESETS: dict[str, dict[str, Any]] = {
    "sd15": {**USUAL, "n": 50, "steps": 5, "scale": 12.5, "standardise": False},
    "sdxl": {**USUAL, "n": 50, "steps": 8, "scale": 8.0, "standardise": False},
    "flux": {**USUAL, "n": 50, "steps": 8, "scale": 40.0, "until": 0.95, "standardise": False, "per": "velocity"},
}
"""What the paper used with ImageReward: SD 1.5 with 50 to 100 target steps, SDXL, FLUX.1-dev."""
