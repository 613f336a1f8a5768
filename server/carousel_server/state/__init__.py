"""The recurrent state: slots (which rows are whose), the slab (the tensors), snapshots (as bytes)."""
