"""VeRA, a method for adaptdock."""
