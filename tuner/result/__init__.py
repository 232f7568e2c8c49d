"""The result of a study: the Pareto front, prices and economics, best_config.json, and how to apply it."""
