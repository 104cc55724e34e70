"""The four nouns, and what they stand on."""
