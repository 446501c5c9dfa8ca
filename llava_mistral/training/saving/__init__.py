"""Atomic checkpoints, and bit-identical resuming from them."""
