"""Policies of the kind `tune`; the file name is the public name."""
