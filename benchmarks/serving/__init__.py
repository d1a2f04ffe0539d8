"""What the server does under load, and through kills."""
