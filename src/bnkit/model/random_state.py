"""The state of the global random generators."""

from __future__ import annotations

import random

import numpy as np
import torch


class RngState:
    """The state of torch's, NumPy's and Python's generators at this moment, to be given back."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        # A device that nobody used has no generator yet, and is not to get one from looking.
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._devices = torch.cuda.get_rng_state_all() if used else None

    def restore(self) -> None:
        """Let all of them go on from there."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._devices is not None:
            torch.cuda.set_rng_state_all(self._devices)
