"""Shared foundations: the user error, atomic files, the picture decoder, checkpoint headers, foreign code."""
