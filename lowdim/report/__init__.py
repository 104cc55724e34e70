"""From results to a page a person looks at."""
