"""A study in the browser: TensorBoard with pages that need no internet."""
