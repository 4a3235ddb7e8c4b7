"""Policies of the kind `route`; the file name is the public name."""
