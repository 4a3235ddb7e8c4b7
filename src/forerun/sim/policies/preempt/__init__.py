"""Policies of the kind `preempt`; the file name is the public name."""
