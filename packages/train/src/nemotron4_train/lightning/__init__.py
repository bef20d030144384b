"""The only home of Lightning: module, mesh strategy, data, callbacks and the fit of one worker."""
