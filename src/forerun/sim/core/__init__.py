"""Arrays and loops.  Imports numpy and numba only; times are int64 picoseconds."""
