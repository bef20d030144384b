"""The model's weights in the form that the engine's step uses: linear layers in any format, norms with stored gains."""
