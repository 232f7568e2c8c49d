"""The agent's choice as a sampler of Optuna, so that a study that it searches is an Optuna study like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.samplers import BaseSampler

from tuner.records.codec import Value


class AgentSampler(BaseSampler):  # type: ignore[misc]
    """Suggests the values that the agent chose; of a parameter that it knows nothing of, the first."""

    def __init__(self, chosen: Mapping[str, Value]) -> None:
        self.chosen = chosen

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """Return that no parameters are sampled together: all of them are chosen."""
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        """Return no values, as for no parameters."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Return the chosen value of a parameter."""
        choices = param_distribution.choices
        return self.chosen[param_name] if self.chosen.get(param_name) in choices else choices[0]
