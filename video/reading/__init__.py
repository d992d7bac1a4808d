"""From a video file, or a folder of pictures, to frames."""
