"""What is read: ScienceQA, LLaVA JSON, tables and conversations as rows of one form."""
