"""The verbs that change a model: add, remove, convert, fold, freeze."""
