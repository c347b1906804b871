"""The embedded demo model and the recipe that trained it.

Importing this package imports neither torch nor tokenizers. ``network``, ``optimizer``, ``train``, ``export`` and
``evaluate`` need torch (extra ``train``); ``measure`` asks the server's own engine for the same figures.
"""
