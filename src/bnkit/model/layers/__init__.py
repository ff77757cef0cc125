"""Modules that edits put into a model."""
