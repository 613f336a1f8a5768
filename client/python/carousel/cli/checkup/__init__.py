"""The checks of `carousel doctor` that need no server's packages."""
