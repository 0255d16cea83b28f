"""The server: an OpenAI-compatible API over an exported model, with memories swapped as it runs.

Needs the extra `serve`. Each module knows one thing: the scheduler no HTTP, the memories no
requests, the app neither threads nor files.
"""
