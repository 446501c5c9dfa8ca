"""What every room stands on: the error, whole files, the picture decoder, checkpoint headers, whose code runs."""
