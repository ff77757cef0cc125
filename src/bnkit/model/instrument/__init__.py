"""Measure a model while it trains."""
