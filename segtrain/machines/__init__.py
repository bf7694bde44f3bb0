"""What this machine has and can do, and a training's ranks on one machine or many."""
