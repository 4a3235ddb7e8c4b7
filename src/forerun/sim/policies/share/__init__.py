"""Policies of the kind `share`; the file name is the public name."""
