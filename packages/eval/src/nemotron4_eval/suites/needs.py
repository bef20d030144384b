"""What the tasks of a suite need that is not here: data, context, toolchains, a tokenizer; known before any runs."""
