"""How the zoo was trained, so that anyone can train it again: one command each. See README.md."""
