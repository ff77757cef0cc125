"""The arithmetic of batch normalization: one contract, several kernels, and a choice that says why."""

from bnkit.kernels.activation import check_activation
from bnkit.kernels.contract import Kernel, Normalised
from bnkit.kernels.select import KERNELS, Choice, check_kernel, select

__all__ = ["KERNELS", "Choice", "Kernel", "Normalised", "check_activation", "check_kernel", "select"]
