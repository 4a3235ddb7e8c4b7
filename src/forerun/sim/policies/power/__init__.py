"""Policies of the kind `power`; the file name is the public name."""
