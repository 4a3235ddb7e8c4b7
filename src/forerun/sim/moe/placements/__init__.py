"""Where experts are: one policy a file, named by its file.

    def NAME(load, flow, *, n_devices, n_slots) -> slots

load    : float64 [E], the layer's shares as observed
flow    : float64 [n_devices, E], chance that a token is on a device after the layer before and
          chooses the expert now; None for the first layer or where nobody asks
n_slots : experts and copies of them in the layer, a multiple of n_devices
slots   : int64 [n_slots], the expert in each slot; device d has slots d*S ... (d+1)*S - 1,
          S = n_slots / n_devices; every expert at least once
LEARNS  : whether it reads load (else nothing is gained by asking again)
"""
