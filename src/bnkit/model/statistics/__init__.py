"""Measure population statistics, and compare running statistics with them."""
