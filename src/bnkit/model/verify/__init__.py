"""Proof that what a verb returns or writes is right, and what it did to the answers."""
