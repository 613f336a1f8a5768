"""What `make check` holds about the shape of the code: sizes, layers, tests, prose.

`python -m tests.checks` prints each violation with its place and its fix. `python -m tests.checks.measures`
prints the numbers that show how simple the server is.
"""
