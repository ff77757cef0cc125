"""Launching many runs: one module for each way."""
