"""XCOPA (Ponti et al. 2020) in mGPT's template."""
