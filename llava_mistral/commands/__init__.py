"""The verbs, one page each."""
