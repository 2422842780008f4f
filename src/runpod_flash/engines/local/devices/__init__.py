"""GPUs: which there are, and who holds them, machine-wide."""
