//! The veilstream sidecar: configuration, pipeline, command line.
