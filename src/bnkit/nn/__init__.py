"""Drop-in batch normalization layers with the same results as PyTorch's."""

from bnkit.nn import functional
from bnkit.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "functional"]
