"""Experts at run time: who chooses them, where they are, and what a step then costs."""
