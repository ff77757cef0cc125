"""What compiled kernels share: autograd, torch.library, tracing."""
