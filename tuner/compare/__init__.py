"""Results of several machines, models or dates side by side."""
