"""Measurements: tables that others took, one reader a format, and points taken on this machine."""
