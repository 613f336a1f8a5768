"""`carousel top`: what servers do now, from their metrics."""
