"""Which compiled loops are on disk, and how they get there; nothing here imports Numba before something is compiled."""
