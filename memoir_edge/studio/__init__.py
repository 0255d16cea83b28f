"""The studio: an edit tried on a model at hand, in a page of this machine's browser.

Needs the extras `edit` and `serve`. Each module knows one thing: the trial no HTTP, the files no
model, the app neither.
"""
