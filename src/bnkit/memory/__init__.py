"""Save memory in training by recomputing outputs, and keep freed memory for later allocations."""

from bnkit.memory.freed_memory import keep_freed_memory

__all__ = ["keep_freed_memory"]
