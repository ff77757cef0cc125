"""``bnkit.compare`` and the ``Comparison`` it returns."""
