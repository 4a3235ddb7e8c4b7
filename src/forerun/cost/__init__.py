"""What each step costs on a device: time, energy, memory."""
