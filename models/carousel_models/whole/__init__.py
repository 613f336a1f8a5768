"""Whole modules as packages: a module is run once, and its operations become the parts of a manifest.

`recording` runs the module and writes its operations as a torch.fx graph. `reading` says what each value is,
in terms of rows of the input (`values`). `chains` makes a chain of parts of that, and `assembly` a manifest.
What has no place in a manifest is named, and `skeleton` writes a custom module to go on from.
"""
