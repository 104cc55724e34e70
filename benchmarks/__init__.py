"""Figures against the best existing tools: one file a question, results committed as JSON."""
