"""The node: one cluster's NodeODM API, S3 in, OpenDroneMap, S3 out."""
