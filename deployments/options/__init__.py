"""What can be set for each stage; knows neither YAML nor environment."""
