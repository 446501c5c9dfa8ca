"""Checkpoints: joining the parts before training (stage 0), the three layouts, and converting between them."""
