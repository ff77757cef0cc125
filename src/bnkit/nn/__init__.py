"""Drop-in batch normalization layers with PyTorch's numbers."""

from bnkit.nn import functional
from bnkit.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "functional"]
