"""What a prompt's text asks for beside its words."""
