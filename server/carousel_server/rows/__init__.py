"""What stands on a row: table, window, ledger, slots, slab, snapshot, listeners."""
