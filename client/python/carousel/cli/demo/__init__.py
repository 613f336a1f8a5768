"""`carousel demo`: a real server, three groups of real clients, and a live view of both sides."""
