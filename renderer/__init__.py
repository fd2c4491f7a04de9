"""Volume rendering of fields: cameras, rays, sampling, compositing, camera paths, video files."""
