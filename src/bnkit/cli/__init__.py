"""The command line: parses arguments, calls the library, and prints results. It makes no decisions."""
