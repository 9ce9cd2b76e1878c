"""Client of Desk Sessions: `desk.client`, and the generated messages in `desk.v1`."""
