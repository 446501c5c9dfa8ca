"""Evaluation: answers are parsed without guessing and scored in ScienceQA's nine columns, each with its interval."""
