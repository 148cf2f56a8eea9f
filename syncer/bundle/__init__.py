"""The other end: content in one file, an OCI image layout inside."""
