"""bnkit inside other tools. Each module needs the package that it is named after, and is imported on request alone."""
