"""The rules of ``bnkit check``, one a file."""
