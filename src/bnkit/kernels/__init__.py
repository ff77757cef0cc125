"""The arithmetic of batch normalization: one interface, several kernels, and a choice with its reason."""

from bnkit.kernels.activation import check_activation
from bnkit.kernels.kernel_interface import BatchNormOutput, Kernel
from bnkit.kernels.select_kernel import KERNEL_NAMES, Choice, check_kernel, select

__all__ = ["KERNEL_NAMES", "BatchNormOutput", "Choice", "Kernel", "check_activation", "check_kernel", "select"]
