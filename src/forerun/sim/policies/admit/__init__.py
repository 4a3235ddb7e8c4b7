"""Policies of the kind `admit`; the file name is the public name."""
