"""Confidence intervals and p values: pure mathematics, with no torch."""
