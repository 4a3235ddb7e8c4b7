"""Comparisons with other simulators, and speed."""
