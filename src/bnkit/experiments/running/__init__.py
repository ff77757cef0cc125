"""Many runs: one file for each way to launch them."""
