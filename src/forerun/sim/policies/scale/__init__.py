"""Policies of the kind `scale`; the file name is the public name."""
