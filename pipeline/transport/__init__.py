"""How tasks reach workers: the interface, and the processes of this machine."""
