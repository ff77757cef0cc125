"""The command line: it parses, calls the library, and prints. Nothing is decided here."""
