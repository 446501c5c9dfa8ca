"""Checkpoints that are whole or not there, and going on from them to the same bits."""
