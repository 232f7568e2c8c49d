"""Finding, inspecting and loading a pipeline."""
