"""Policies of the kind `batch`; the file name is the public name."""
