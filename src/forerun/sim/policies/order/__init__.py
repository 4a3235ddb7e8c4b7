"""Policies of the kind `order`; the file name is the public name."""
