"""What decides about a fleet while it runs: plain Python between two calls of `Server.advance`.

`cold` says how long a start takes, `hardware` which replicas are rented and in what state, `scaler`
how many are wanted, `faults` what goes wrong, `rows` what that and clocks make replicas run (see
`sim.power`), `drive` takes the clock from one of them to the next.
"""
