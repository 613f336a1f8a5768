"""The `carousel` command. A command imports large packages only when it runs."""
