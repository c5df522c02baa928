"""What a run costs: memory, time, speed, FLOPs, energy, sizes, and the machine it was measured on."""
