"""Policies of the kind `gate`; the file name is the public name."""
