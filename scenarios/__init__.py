"""The loads: TOML files that say what is sent, and the code that runs inside Locust to send it."""
