"""Modules that ``model.edit`` inserts into a model."""
