"""FLORES-101 (Goyal et al. 2022) out of Chinese."""
