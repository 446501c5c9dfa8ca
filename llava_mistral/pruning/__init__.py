"""Which samples are worth training on: by principles, far apart, at random or all; and what became of the others."""
