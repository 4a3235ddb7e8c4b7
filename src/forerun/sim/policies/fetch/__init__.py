"""Policies of the kind `fetch`; the file name is the public name."""
