"""The embedded demo model and the recipe that trained it.

Importing this package imports neither torch nor tokenizers; the modules that need them are
``bpe``, ``network``, ``optimizer``, ``train``, ``export`` and ``evaluate`` (extra ``train``).
"""
