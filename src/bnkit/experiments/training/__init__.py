"""One run in one process: the loop and what it is made of."""
