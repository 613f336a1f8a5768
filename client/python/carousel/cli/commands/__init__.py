"""One module for each command or group of commands, with a function `register(app)`."""
