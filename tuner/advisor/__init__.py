"""What each value of a search space can gain, computed from the measurements of the untouched pipeline alone."""
