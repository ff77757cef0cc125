"""What the documentation runs and draws."""
