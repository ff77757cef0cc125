"""The output of a comparison in a notebook."""
