"""The page at `/`: one file of HTML, made of a template, a style, scripts and a table of texts."""
