"""Running on Slurm: scripts, submission, what a job does before and after its workers, and the queue."""
