"""TyDi QA, gold passage task (Clark et al. 2020)."""
