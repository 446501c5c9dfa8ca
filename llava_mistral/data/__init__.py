"""Reading data: ScienceQA, LLaVA JSON, tables and conversations become rows of one form."""
