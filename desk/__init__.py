"""The public face: the command, the client, the simulator, and the generated stubs in `desk.v1`."""
