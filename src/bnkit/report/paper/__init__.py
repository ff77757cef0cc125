"""What goes into a paper: the summary of a comparison, its LaTeX, and figures at column width."""
