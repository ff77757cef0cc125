"""Settings of the threads that PyTorch computes with. Imports nothing: they have to be set before PyTorch is loaded."""

# Threads that wait for each other sleep. By default they spin, and where other processes compute keep those off the processor that
# they wait for: 15 times slower with as many threads as cores. Read when torch is loaded.
PASSIVE_WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
