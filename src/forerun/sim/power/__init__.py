"""Power while a fleet runs: `course` says what a row may draw when, `meter` what replicas draw,
`controller` shows a policy the `view` and has rows switched (`sim.control.rows`), `check` says what
cannot be before the run, `told` what the log is told.

The core knows nothing of it: a clock is a row of costs, taken on at a step boundary.
"""
