"""Training of one run in one process: the loop and its parts."""
