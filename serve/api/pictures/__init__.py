"""Pictures that come with a request: how they are written, what they may be, what they mean."""
