"""Policies of the kind `fault`; the file name is the public name."""
