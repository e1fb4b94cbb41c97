"""The `dpt` command, one file per subcommand."""
