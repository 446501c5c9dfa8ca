"""A checkpoint before any training, the three layouts of a checkpoint, and the way from one to another."""
