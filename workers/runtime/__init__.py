"""What runs a worker: its process, the engines that step its tasks, the hub that its model comes from."""
