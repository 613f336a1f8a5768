"""The training of the zoo's models, with one command each. See README.md."""
