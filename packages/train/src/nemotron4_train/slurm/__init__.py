"""For batch scripts of earlier versions, which call `python -m nemotron4_train.slurm.attempt`."""
