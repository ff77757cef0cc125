"""Which compiled loops are on disk, and how they are compiled. These modules import Numba only to compile."""
