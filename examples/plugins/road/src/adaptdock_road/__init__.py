"""RoAd, a method for adaptdock."""
