"""The plan of a run before it starts: parameters, FLOP, memory, hours."""
