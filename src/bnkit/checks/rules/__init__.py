"""The rules of ``bnkit check``, one per file."""
