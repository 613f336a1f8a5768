"""`carousel demo`: a server, three groups of clients, and a live view of both sides."""
