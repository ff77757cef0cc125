"""Verify that changed models and written files compute the right outputs, and compare their predictions."""
