"""What to measure next: the strategies, and what they know of a study."""
