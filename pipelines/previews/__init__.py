"""What an image will be, shown while it is drawn: predicted latents to small pictures."""
