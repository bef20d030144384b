"""The only code that uses Lightning: module, mesh strategy, data, callbacks and the fit of one worker."""
