"""bnkit inside other tools. Each module needs the package of its name, and is only imported on request."""
