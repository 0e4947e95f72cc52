"""Everything that speaks to Redis: scripts, commands, the push connection, an embedded server."""
