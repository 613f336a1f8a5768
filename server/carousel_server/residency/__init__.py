"""How a session comes to this replica and leaves it, from its id to its row and back to the store."""
