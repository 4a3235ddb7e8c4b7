"""Fits costs to measurements and says how far off they are on rows that were not used."""
