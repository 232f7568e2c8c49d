"""A study as people see it: while it runs and when it is over."""
