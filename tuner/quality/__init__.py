"""Whether the images are still good: guards, metrics, and the panel that compares them with the baseline's."""
