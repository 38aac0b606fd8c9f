//! The pipeline: raw topics in, sanitized topics and sealed dead letters out, exactly once.

pub mod settings;
