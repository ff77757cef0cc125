"""From what is to be compared to the records of its runs."""
