"""Settings of PyTorch's threads, which must be set before PyTorch is loaded. Has no imports."""

# Waiting threads sleep. By default they spin, which keeps the threads they wait for off the processor when other processes are
# running: 15 times slower with as many threads as cores. Read when torch is loaded.
PASSIVE_WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
