"""Memory in training: outputs computed again instead of kept, and freed blocks kept for the next allocation."""

from bnkit.memory.malloc import keep_freed_memory

__all__ = ["keep_freed_memory"]
