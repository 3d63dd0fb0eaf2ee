"""The command line: starts things and prints things. A command's module is imported only when it runs."""
