"""What the hosted SDK 1.16 asks of its cloud: the operations that it names, and uploads."""
