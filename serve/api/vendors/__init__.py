"""Other services' APIs over this server's images and jobs, for their own clients."""
