"""What a step of training takes, predicted by formulas alone: memory and time of a layout on a machine."""
