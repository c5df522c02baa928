"""Points as Slurm jobs: the engine stays on the login node, each run is a job, and records are what both share."""
