"""The API's own description: made from the error table, the settings in force and the routes."""
