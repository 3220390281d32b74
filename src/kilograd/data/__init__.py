"""Images with labels: readers, pixels, episodes, random views."""
