"""Policies of the kind `rebalance`; the file name is the public name."""
