"""Running against population statistics."""
