"""Counts of what the server does, as Prometheus text. Labels are routes, codes, models and rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from starlette.types import Scope

BOUNDS = (0.01, 0.05, 0.25, 1.0, 5.0, 20.0, 60.0, 300.0)
"""Upper ends of the histograms, in seconds."""
Labels = tuple[tuple[str, str], ...]

HELP = {
    "fairlead_requests_total": ("counter", "Answered requests."),
    "fairlead_request_seconds": ("histogram", "From the first byte of a request to the last of its answer."),
    "fairlead_queue_seconds": ("histogram", "What a run waited before it was computed."),
    "fairlead_queue_length": ("gauge", "Runs that wait."),
    "fairlead_streams_open": ("gauge", "Streams that are being sent."),
    "fairlead_disconnects_total": ("counter", "Requests whose client left before the answer."),
    "fairlead_refused_total": ("counter", "Requests that were refused."),
    "fairlead_runs_total": ("counter", "Runs that ended, by how."),
    "fairlead_run_cache_hits_total": ("counter", "Requests that were answered from a record."),
    "fairlead_candidates_total": ("counter", "Pictures that were made."),
    "fairlead_nfe_total": ("counter", "Evaluations of the guided denoiser."),
    "fairlead_scores_total": ("counter", "Pictures that were scored by request."),
    "fairlead_dollars_total": ("counter", "Dollars that rewards cost."),
    "fairlead_worker_up": ("gauge", "1 while the process that computes answers."),
    "fairlead_worker_restarts_total": ("counter", "Times that this process was started again."),
}


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self.read: dict[str, Callable[[], float]] = {}
        """Numbers that somebody else keeps, read when somebody asks."""

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter."""
        assert HELP[name][0] == "counter"
        assert amount >= 0
        self._counts[name][tuple(sorted(labels.items()))] += amount

    def took(self, name: str, seconds: float) -> None:
        """Add to a histogram."""
        found = self._seconds.setdefault(name, [0] * (len(BOUNDS) + 1))
        place = next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        found[place] += 1
        self._sums[name] += seconds

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """A request has ended."""
        route = getattr(scope.get("route"), "path", "other")
        self.add("fairlead_requests_total", route=route, code=str(status))
        self.took("fairlead_request_seconds", seconds)
        if status in (0, 499):
            self.add("fairlead_disconnects_total")
        if code := scope["state"].get("code"):
            self.add("fairlead_refused_total", code=code)

    def text(self) -> str:
        """Everything in Prometheus' text format."""
        lines = []
        for name, (kind, about) in HELP.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            if name in self.read:
                lines.append(f"{name} {self.read[name]():.15g}")
            elif kind == "counter":
                lines += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in self._counts[name].items()]
            elif kind == "histogram":
                lines += self._histogram(name)
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str) -> list[str]:
        found = self._seconds.get(name, [0] * (len(BOUNDS) + 1))
        lines = []
        total = 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], found, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sums[name]:.15g}", f"{name}_count {total}"]


def _labels(labels: Labels | Mapping[str, str]) -> str:
    pairs = dict(labels).items()
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
