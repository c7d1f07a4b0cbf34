"""What the project is compared with, written as its own users would write it."""
