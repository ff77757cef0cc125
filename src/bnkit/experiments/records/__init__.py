"""Results folders: what runs write to disk."""
