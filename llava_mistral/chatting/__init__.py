"""A model in conversation: what it is asked, and its answers as they grow."""
