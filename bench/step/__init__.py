"""The engine's step alone and on the slab, beside libraries and the machine's limits: D1, D2, D4, D5."""
