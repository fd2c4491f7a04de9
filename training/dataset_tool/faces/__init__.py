"""Faces in videos: detection, tracking, head pose, and the clips, boxes and cameras that follow from them."""
