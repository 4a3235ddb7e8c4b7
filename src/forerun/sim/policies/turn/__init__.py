"""Policies of the kind `turn`; the file name is the public name."""
