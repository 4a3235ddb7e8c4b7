"""Policies that ship with Forerun: `<kind>/<name>.py` holds one plain function called `<name>`.

A policy's knobs are its module's `PARAMS` (name -> default); the signatures are in
`sim/core/signatures.py`.
"""
