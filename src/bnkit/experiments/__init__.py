"""Experiments: settings, plan, training, records."""
