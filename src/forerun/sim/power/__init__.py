"""Power while a fleet runs: `course` says what a row may draw when, `rows` what replicas run at a
lower clock, `meter` what they draw, `controller` asks a policy and switches rows.

The core knows nothing of it: a clock is a row of costs, taken on at a step boundary.
"""
