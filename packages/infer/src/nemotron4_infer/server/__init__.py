"""The HTTP server: OpenAI's completions and chat over the engine.

Invariant: every answer is an object of the contract or an error object; no request, however wrong or slow, ends the
engine or holds another request. Needs the extra nemotron4-infer[serve]; importing this package needs nothing.
"""
