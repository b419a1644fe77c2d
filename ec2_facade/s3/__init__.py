"""S3's own part of the facade: addresses of objects, and bodies that stream."""
