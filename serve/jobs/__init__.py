"""Jobs: generations that outlive the request that asked for them; see README.md."""
