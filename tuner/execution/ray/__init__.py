"""Jobs on the devices of a Ray cluster: an actor for each device runs the executor of its own machine."""
