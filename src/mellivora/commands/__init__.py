"""One module a subcommand; see `mellivora.cli` for what such a module must have."""
