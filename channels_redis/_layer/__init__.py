"""What both channel layers share."""
