"""The content of Desk's callbacks, for gateway, fold and simulator alike."""
