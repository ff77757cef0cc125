"""One network against another: paired differences, their intervals, and the verdict."""
