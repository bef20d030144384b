"""The parts of tools/bench/gpu_session.py, which says what they are."""
