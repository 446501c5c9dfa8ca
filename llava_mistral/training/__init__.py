"""Training: what each stage trains, its data, its plan and its checkpoints."""
