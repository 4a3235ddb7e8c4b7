"""Policies of the kind `speculate`; the file name is the public name."""
