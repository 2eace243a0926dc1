"""What the commands that train share: settings, output paths, progress."""
