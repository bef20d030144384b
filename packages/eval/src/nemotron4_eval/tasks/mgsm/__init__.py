"""MGSM (Shi et al. 2022)."""
