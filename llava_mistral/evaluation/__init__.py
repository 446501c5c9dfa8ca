"""How a model is judged: answers read without guessing, scored in ScienceQA's nine columns, each with its interval."""
