"""How many random examples a test tries: all in `make test-all`, a fifth of them in `make test`; the same ones every time."""

from __future__ import annotations

from hypothesis import settings

EXHAUSTIVE = "exhaustive"


def register_profiles() -> None:
    """For ``--hypothesis-profile``."""
    ordinary = settings(derandomize=True, database=None, deadline=None)
    settings.register_profile("ordinary", ordinary)
    settings.register_profile(EXHAUSTIVE, ordinary)
    settings.load_profile("ordinary")


def is_exhaustive() -> bool:
    return settings.get_current_profile_name() == EXHAUSTIVE


def examples(count: int) -> int:
    """What a test gives as ``max_examples``, where ``count`` are all."""
    return count if is_exhaustive() else max(1, count // 5)
