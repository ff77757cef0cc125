"""Common parts of the compiled kernels: autograd, torch.library, tracing."""
