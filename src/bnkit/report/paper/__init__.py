"""Output for papers: the summary of a comparison, its LaTeX, and figures at column width."""
