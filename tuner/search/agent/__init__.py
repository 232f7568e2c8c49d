"""The search by a model of costs: what it learns, what a trial costs, and which gains most a second."""
