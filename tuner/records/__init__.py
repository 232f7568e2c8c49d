"""Records that cross a process or are kept in a file."""
