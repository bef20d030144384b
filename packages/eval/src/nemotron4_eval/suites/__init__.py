"""The paper's tables as suites of tasks: what they need, and what they came to."""
