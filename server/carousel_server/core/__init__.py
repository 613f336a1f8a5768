"""What rooms exchange: value types, ports, limits and the one error. No behaviour."""
