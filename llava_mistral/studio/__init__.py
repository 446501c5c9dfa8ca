"""A page for the whole way: it writes commands of the verbs, runs them, and shows what they wrote."""
