"""The values of the API as texts for people and as JSON for programs."""
