"""How each kind of published number is measured here; the file name is the public name.

A file holds `Claim`, a `schema.Claim` with the fields of its setup, and
`measure(claim, how) -> Found`.
"""
