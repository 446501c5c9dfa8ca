"""What a run will take, before it starts: sizes, operations, memory, hours."""
